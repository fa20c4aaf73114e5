"""Models that the peer and this project are compared on."""

# configs/Pretrain.yaml.
FULL = {
    "image_res": 256, "patch_size": 16, "vision_width": 768, "vision_depth": 12, "vision_heads": 12,
    "vision_mlp_ratio": 4, "embed_dim": 256, "queue_size": 65536, "momentum": 0.995, "temp": 0.07,
    "bert": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "fusion_layer": 6,
             "intermediate_size": 3072, "max_position_embeddings": 512, "type_vocab_size": 2,
             "vocab_size": 30522, "encoder_width": 768, "layer_norm_eps": 1e-12,
             "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}}

# configs/quickstart.yaml.
SMALL = {
    "image_res": 64, "patch_size": 8, "vision_width": 128, "vision_depth": 4, "vision_heads": 4,
    "vision_mlp_ratio": 4, "embed_dim": 64, "queue_size": 1024, "momentum": 0.98, "temp": 0.07,
    "bert": {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "fusion_layer": 2,
             "intermediate_size": 512, "max_position_embeddings": 64, "type_vocab_size": 2,
             "vocab_size": 128, "encoder_width": 128, "layer_norm_eps": 1e-12,
             "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}}

# tests/dist/tiny.yaml, but for a queue that whole batches fill, as the authors' code demands.
TINY = {
    "image_res": 32, "patch_size": 8, "vision_width": 32, "vision_depth": 2, "vision_heads": 2,
    "vision_mlp_ratio": 4, "embed_dim": 16, "queue_size": 52, "momentum": 0.9, "temp": 0.07,
    "bert": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "fusion_layer": 1,
             "intermediate_size": 64, "max_position_embeddings": 40, "type_vocab_size": 2,
             "vocab_size": 128, "encoder_width": 32, "layer_norm_eps": 1e-12,
             "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}}

BY_NAME = {"full": FULL, "small": SMALL, "tiny": TINY}
