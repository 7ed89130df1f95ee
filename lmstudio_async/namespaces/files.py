"""`client.files`."""

from collections.abc import Hashable

from lmstudio_async.namespaces.local_file import LocalFile, LocalFileInput, read_local_file
from lmstudio_async.pool import Pool
from lmstudio_async.single_flight import SingleFlight
from lmstudio_async.timeouts import Bound
from lmstudio_async.wire.files import UploadedFile, UploadFileParameter
from lmstudio_async.wire.prediction import FilePart


class FilesNamespace:
    """Files that the server keeps for this client, to be used in chats."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        # By content, as long as the connection is the one that they came over.
        self._uploaded: dict[Hashable, UploadedFile] = {}
        self._uploading = SingleFlight()
        self._connection: object = None

    async def prepare_image(
        self, src: LocalFileInput, name: str | None = None, *, timeout: float | None = None
    ) -> FilePart:
        """Give an image to the server. Returns a handle for chats.

        The same content is sent only once, also if several tasks ask at the same time. The server
        keeps it until this client disconnects; after a lost connection, prepare the image anew.

        src: the path of a file, a binary file object, which is read from where it stands to its
            end, or bytes. At most 64 MiB.
        name: what to call it; None takes the name of the file, or makes one up.
        timeout: most seconds for the server's answer, in place of `Timeouts.call`. Tasks that
            share an upload share the time-out of the first.

        Raises LMStudioFileNotFoundError or LMStudioOSError for what cannot be read,
        LMStudioTypeError or LMStudioValueError for what cannot be an image.
        """
        file = await read_local_file(src, name)
        return await self._give(file, file.digest, timeout)

    async def prepare_file(
        self, src: LocalFileInput, name: str | None = None, *, timeout: float | None = None
    ) -> FilePart:
        """Give a file of any kind to the server. As `prepare_image`.

        Which kinds a model can use in a chat is up to the server; `file_type` of the returned
        handle tells what it took the file for.
        """
        file = await read_local_file(src, name)
        # What it is taken for may depend on how its name ends.
        return await self._give(file, (file.digest, file.name.rpartition(".")[2].lower()), timeout)

    async def _give(self, file: LocalFile, key: Hashable, timeout: float | None) -> FilePart:
        bound = self._pool.timeouts.bound("call", timeout)
        uploaded = await self._find_or_upload(file, key, bound)
        return FilePart(
            name=file.name,
            identifier=uploaded.identifier,
            size_bytes=uploaded.size_bytes,
            file_type=uploaded.file_type,
        )

    async def _find_or_upload(self, file: LocalFile, key: Hashable, bound: Bound) -> UploadedFile:
        while True:
            self._forget_if_disconnected()
            if key in self._uploaded:
                return self._uploaded[key]
            if not await self._uploading.wait(key):
                with self._uploading.lead(key):
                    uploaded = await self._upload(file, bound)
                    self._forget_if_disconnected()
                    self._uploaded[key] = uploaded
                    return uploaded

    async def _upload(self, file: LocalFile, bound: Bound) -> UploadedFile:
        return await self._pool.call(
            "files",
            "uploadFileBase64",
            UploadFileParameter(file.name, file.content),
            UploadedFile,
            asked=f"the upload of {file.name!r}",
            bound=bound,
        )

    def _forget_if_disconnected(self) -> None:
        connection = self._pool.live_connection("files")
        if connection is None or connection is not self._connection:
            self._uploaded.clear()
            self._connection = connection
