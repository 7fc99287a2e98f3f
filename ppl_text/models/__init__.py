"""L2: generative stories, one file per family. ``MODELS`` names them; nothing heavy is imported here."""

MODELS = {
    "deep_state_space": "ppl_text.models.deep_state_space:DeepStateSpace",
    "encoder_decoder": "ppl_text.models.encoder_decoder:EncoderDecoder",
    "language_model": "ppl_text.models.language_model:LanguageModel",
    "latent_sequence": "ppl_text.models.latent_sequence:LatentSequence",
    "layerwise_transformer": "ppl_text.models.layerwise_transformer:LayerwiseTransformer",
    "sentence_vae": "ppl_text.models.sentence_vae:SentenceVAE",
    "switching_language_model": "ppl_text.models.switching_language_model:SwitchingLanguageModel",
}
"""Model families by name."""
