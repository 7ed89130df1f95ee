"""Files that are given to the server.

Source: lmstudio-js, lms-external-backend-interfaces: filesBackendInterface.
"""

from msgspec import Struct

from lmstudio_async.wire.prediction import FileType


class UploadFileParameter(Struct, rename="camel"):
    """Parameter of `uploadFileBase64`. `content_base64` is the content itself: msgspec writes
    bytes in base64."""

    name: str
    content_base64: bytes


class UploadedFile(Struct, rename="camel", frozen=True):
    """Result of `uploadFileBase64`: what the server calls the file, and what it took it for."""

    identifier: str
    file_type: FileType
    size_bytes: int
