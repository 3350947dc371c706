"""A model in this process behind OpenAI's chat completions, for frameworks that drive the model themselves."""
