"""LM Studio's wire protocol as msgspec types. No I/O, no policy.

    messages        the envelope of every frame, and authentication
    api_token       what stands for a client that is no guest
    server_error    errors as the server sends them
    model_info      descriptions of models on disk and of loaded instances; model specifiers
    kv_config       the server's flat configuration format
    load_config     load settings as users write them, to and from KV config
    prediction_config   prediction settings, likewise
    loading         packets of the load channels, parameters of the model-management calls
    prediction      chat history, fragments, statistics, packets of the predict channel

The client and the embedded server use the same types: a parameter that one side encodes the other
decodes. Encoding leaves out what is unset; decoding ignores fields it does not know.
"""
