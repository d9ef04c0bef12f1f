//! From tokenizer files to the tokenizer section of an image.
