"""The embedded models: the small autoencoder, the tokenizer and the text encoder."""
