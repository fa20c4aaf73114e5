"""Models that the peer and this project are compared on."""


def model(*, width, intermediate_size, bert_layers, heads, max_position_embeddings, vocab_size, **others):
    """Image encoder and BERT are of the same width; half of BERT's layers join text and image."""
    return {
        "vision_width": width, "vision_heads": heads, "vision_mlp_ratio": 4, "temp": 0.07, **others,
        "bert": {"hidden_size": width, "num_hidden_layers": bert_layers, "num_attention_heads": heads,
                 "fusion_layer": bert_layers // 2, "intermediate_size": intermediate_size,
                 "max_position_embeddings": max_position_embeddings, "type_vocab_size": 2,
                 "vocab_size": vocab_size, "encoder_width": width, "layer_norm_eps": 1e-12,
                 "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}}


# configs/Pretrain.yaml.
FULL = model(image_res=256, patch_size=16, vision_depth=12, width=768, heads=12, embed_dim=256, queue_size=65536,
             momentum=0.995, bert_layers=12, intermediate_size=3072, max_position_embeddings=512, vocab_size=30522)

# configs/quickstart.yaml.
SMALL = model(image_res=64, patch_size=8, vision_depth=4, width=128, heads=4, embed_dim=64, queue_size=1024,
              momentum=0.98, bert_layers=4, intermediate_size=512, max_position_embeddings=64, vocab_size=128)

# tests/dist/tiny.yaml, but for a queue that whole batches fill, as the authors' code demands.
TINY = model(image_res=32, patch_size=8, vision_depth=2, width=32, heads=2, embed_dim=16, queue_size=52,
             momentum=0.9, bert_layers=2, intermediate_size=64, max_position_embeddings=40, vocab_size=128)

BY_NAME = {"full": FULL, "small": SMALL, "tiny": TINY}
