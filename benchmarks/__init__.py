"""What the client costs, against the least it could cost and against `lmstudio`."""
