"""Variational families, one file per model family, same file names as ``ppl_text/models/``.

``GUIDES[family]`` names the families' own guides. A guide of yours needs no entry here: write a class
in a file and give ``--guide path/to/file.py:ClassName``; an installed package may also declare it under
the entry-point group ``ppl_text.guides``. Start from the base class of the family, whose docstring is
the recipe. Nothing heavy is imported here.
"""

GUIDES: dict[str, dict[str, str]] = {
    "deep_state_space": {
        "diagonal": "guides.deep_state_space:DiagonalGuide",
        "tril": "guides.deep_state_space:TriangularGuide",
        "shared": "guides.deep_state_space:SharedTransitionGuide",
        "bidirectional": "guides.deep_state_space:BidirectionalGuide",
        "mean-field": "guides.deep_state_space:MeanFieldGuide",
        "look-ahead": "guides.deep_state_space:LookAheadGuide",
        "prior": "guides.deep_state_space:PriorGuide",
    },
    "encoder_decoder": {
        "exact": "guides.encoder_decoder:ExactGuide",
        "gaussian": "guides.encoder_decoder:GaussianGuide",
        "attention": "guides.encoder_decoder:VectorGuide",
        "dirichlet": "guides.encoder_decoder:DirichletGuide",
        "logistic-normal": "guides.encoder_decoder:LogisticNormalGuide",
        "weibull": "guides.encoder_decoder:WeibullGuide",
        "prior": "guides.encoder_decoder:PriorGuide",
    },
    "language_model": {"exact": "guides.language_model:ExactGuide"},
    "latent_sequence": {
        "gaussian": "guides.latent_sequence:GaussianGuide",
        "quantised": "guides.latent_sequence:QuantisedGuide",
        "soft": "guides.latent_sequence:SoftGuide",
        "categorical": "guides.latent_sequence:CategoricalGuide",
        "prior": "guides.latent_sequence:PriorGuide",
    },
    "layerwise_transformer": {
        "layer-wise": "guides.layerwise_transformer:LayerWiseGuide",
        "independent": "guides.layerwise_transformer:IndependentGuide",
        "single": "guides.layerwise_transformer:SingleGuide",
        "prior": "guides.layerwise_transformer:PriorGuide",
        "exact": "guides.layerwise_transformer:ExactGuide",
    },
    "sentence_vae": {
        "gaussian": "guides.sentence_vae:GaussianGuide",
        "pooled": "guides.sentence_vae:PooledGuide",
        "batch-norm": "guides.sentence_vae:BatchNormGuide",
        "iaf": "guides.sentence_vae:FlowGuide",
        "point": "guides.sentence_vae:PointGuide",
        "prior": "guides.sentence_vae:PriorGuide",
        "exact": "guides.sentence_vae:ExactGuide",
    },
    "switching_language_model": {
        "exact": "guides.switching_language_model:ExactGuide",
        "mean-field": "guides.switching_language_model:MeanFieldGuide",
        "prior": "guides.switching_language_model:PriorGuide",
    },
}
"""``"module:class"`` by model family and guide name."""
