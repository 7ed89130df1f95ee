"""Loaded models: their lifecycle, the handles users hold, and predictions.

lifecycle    which instances this client loaded, and when each is to be unloaded
load         one load in progress, shared by all who wait for it
scope        what `.model()` and `.load_new_instance()` return: await it, or enter it
kinds        what differs between LLMs and embedding models
handle       what both kinds of handle can do; `llm` and `embedding` have the rest
prediction   a prediction while it runs, and its result
response_format   the shape an answer shall have, and turning the answer into it
chat         `Chat`; `history`, `history_data` and `messages` read what users write as one
act          rounds of predictions and tool calls; `act_callbacks` and `tool_calls` belong to it
tools        functions offered to a model, described by `signature` and `docstrings`
mcp_tools    the tools of an MCP session
"""
