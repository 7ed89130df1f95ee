"""Loaded models: their lifecycle, the handles users hold, and predictions.

lifecycle    which instances this client loaded, and when each is to be unloaded
load         one load in progress, shared by all who wait for it
scope        what `.model()` and `.load_new_instance()` return: await it, or enter it
kinds        what differs between LLMs and embedding models
handle       what both kinds of handle can do; `llm` and `embedding` have the rest
prediction   a prediction while it runs, and its result
history      what users write as a chat, as the protocol wants it
"""
