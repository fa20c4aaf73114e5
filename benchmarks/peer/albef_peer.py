"""ALBEF pretraining in plain eager PyTorch, written from the paper and docs' description of the authors'
algorithm, with the amounts of work their code does: image keys and values projected for each of the
four fusion passes, separate positive and negative passes, queues copied, the MLM head on every token,
momentum update and masks tensor by tensor. It exists to be measured beside the C++ trainer
(benchmarks/peer/step.py) and is checked against the golden numbers (benchmarks/peer/check.py).
"""
import math

import torch
import torch.nn.functional as F
from torch import nn


class VisionAttention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        batch, tokens, width = x.shape
        head = width // self.heads
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.heads, head).permute(2, 0, 3, 1, 4)
        attention = ((q @ k.transpose(-2, -1)) * head ** -0.5).softmax(dim=-1)
        return self.proj((attention @ v).transpose(1, 2).reshape(batch, tokens, width))


class VisionMlp(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class VisionBlock(nn.Module):
    def __init__(self, width, heads, ratio, eps):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = VisionAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = VisionMlp(width, int(width * ratio))

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    def __init__(self, patch, width):
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)

    def forward(self, image):
        return self.proj(image).flatten(2).transpose(1, 2)


class VisionTransformer(nn.Module):
    def __init__(self, c):
        super().__init__()
        width, patch = c["vision_width"], c["patch_size"]
        grid = c["image_res"] // patch
        self.patch_embed = PatchEmbed(patch, width)
        self.cls_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, grid * grid + 1, width) * 0.02)
        eps = c.get("vision_ln_eps", 1e-6)
        self.blocks = nn.ModuleList(
            VisionBlock(width, c["vision_heads"], c["vision_mlp_ratio"], eps)
            for _ in range(c["vision_depth"]))
        self.norm = nn.LayerNorm(width, eps=eps)

    def forward(self, image):
        x = self.patch_embed(image)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class BertSelfAttention(nn.Module):
    def __init__(self, b, key_width):
        super().__init__()
        width = b["hidden_size"]
        self.heads = b["num_attention_heads"]
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(key_width, width)
        self.value = nn.Linear(key_width, width)
        self.dropout = nn.Dropout(b["attention_probs_dropout_prob"])

    def split(self, x):
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)

    def forward(self, x, states, mask):
        states = x if states is None else states
        q, k, v = self.split(self.query(x)), self.split(self.key(states)), self.split(self.value(states))
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        probabilities = self.dropout((scores + mask).softmax(dim=-1))
        return (probabilities @ v).transpose(1, 2).flatten(2)


class BertOutput(nn.Module):
    def __init__(self, b, width_in):
        super().__init__()
        self.dense = nn.Linear(width_in, b["hidden_size"])
        self.LayerNorm = nn.LayerNorm(b["hidden_size"], eps=b["layer_norm_eps"])
        self.dropout = nn.Dropout(b["hidden_dropout_prob"])

    def forward(self, x, residual):
        return self.LayerNorm(self.dropout(self.dense(x)) + residual)


class BertAttention(nn.Module):
    def __init__(self, b, key_width):
        super().__init__()
        self.self = BertSelfAttention(b, key_width)
        self.output = BertOutput(b, b["hidden_size"])

    def forward(self, x, mask, states=None):
        return self.output(self.self(x, states, mask), x)


class BertIntermediate(nn.Module):
    def __init__(self, b):
        super().__init__()
        self.dense = nn.Linear(b["hidden_size"], b["intermediate_size"])

    def forward(self, x):
        return F.gelu(self.dense(x))


class BertLayer(nn.Module):
    def __init__(self, b, fusion):
        super().__init__()
        self.attention = BertAttention(b, b["hidden_size"])
        if fusion:
            self.crossattention = BertAttention(b, b["encoder_width"])
        self.fusion = fusion
        self.intermediate = BertIntermediate(b)
        self.output = BertOutput(b, b["intermediate_size"])

    def forward(self, x, mask, states, states_mask):
        x = self.attention(x, mask)
        if self.fusion:
            x = self.crossattention(x, states_mask, states)
        return self.output(self.intermediate(x), x)


class BertEmbeddings(nn.Module):
    def __init__(self, b):
        super().__init__()
        width = b["hidden_size"]
        self.word_embeddings = nn.Embedding(b["vocab_size"], width, padding_idx=0)
        self.position_embeddings = nn.Embedding(b["max_position_embeddings"], width)
        self.token_type_embeddings = nn.Embedding(b["type_vocab_size"], width)
        self.LayerNorm = nn.LayerNorm(width, eps=b["layer_norm_eps"])
        self.dropout = nn.Dropout(b["hidden_dropout_prob"])
        self.register_buffer("position_ids", torch.arange(b["max_position_embeddings"])[None])

    def forward(self, ids):
        x = self.word_embeddings(ids) + self.token_type_embeddings(torch.zeros_like(ids))
        x = x + self.position_embeddings(self.position_ids[:, :ids.shape[1]])
        return self.dropout(self.LayerNorm(x))


class BertEncoder(nn.Module):
    def __init__(self, b):
        super().__init__()
        self.layer = nn.ModuleList(BertLayer(b, i >= b["fusion_layer"])
                                   for i in range(b["num_hidden_layers"]))


class BertModel(nn.Module):
    def __init__(self, b):
        super().__init__()
        self.fusion_layer = b["fusion_layer"]
        self.embeddings = BertEmbeddings(b)
        self.encoder = BertEncoder(b)

    def forward(self, x, attention_mask, states=None, mode="multi_modal"):
        if mode != "fusion":
            x = self.embeddings(x)
        mask = (1.0 - attention_mask[:, None, None, :].to(x.dtype)) * -10000.0
        states_mask = None
        if states is not None:
            ones = torch.ones(states.shape[:2], dtype=torch.long, device=states.device)
            states_mask = (1.0 - ones[:, None, None, :].to(x.dtype)) * -1e9
        last = len(self.encoder.layer)
        first = {"text": (0, self.fusion_layer), "fusion": (self.fusion_layer, last),
                 "multi_modal": (0, last)}[mode]
        for layer in self.encoder.layer[first[0]:first[1]]:
            x = layer(x, mask, states, states_mask)
        return x


class Transform(nn.Module):
    def __init__(self, b):
        super().__init__()
        self.dense = nn.Linear(b["hidden_size"], b["hidden_size"])
        self.LayerNorm = nn.LayerNorm(b["hidden_size"], eps=b["layer_norm_eps"])

    def forward(self, x):
        return self.LayerNorm(F.gelu(self.dense(x)))


class Predictions(nn.Module):
    def __init__(self, b, embeddings):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(b["vocab_size"]))
        self.transform = Transform(b)
        self.decoder = nn.Linear(b["hidden_size"], b["vocab_size"])
        self.decoder.weight = embeddings.weight
        self.decoder.bias = self.bias

    def forward(self, x):
        return self.decoder(self.transform(x))


class MaskedLanguageHead(nn.Module):
    def __init__(self, b, embeddings):
        super().__init__()
        self.predictions = Predictions(b, embeddings)


class BertForMaskedLM(nn.Module):
    def __init__(self, b):
        super().__init__()
        self.bert = BertModel(b)
        self.cls = MaskedLanguageHead(b, self.bert.embeddings.word_embeddings)


class Albef(nn.Module):
    def __init__(self, c):
        super().__init__()
        b, embed, queue = c["bert"], c["embed_dim"], c["queue_size"]
        self.c = c
        self.visual_encoder = VisionTransformer(c)
        self.text_encoder = BertForMaskedLM(b)
        self.vision_proj = nn.Linear(c["vision_width"], embed)
        self.text_proj = nn.Linear(b["hidden_size"], embed)
        self.temp = nn.Parameter(torch.ones([]) * c["temp"])
        self.itm_head = nn.Linear(b["hidden_size"], 2)
        self.visual_encoder_m = VisionTransformer(c)
        self.vision_proj_m = nn.Linear(c["vision_width"], embed)
        self.text_encoder_m = BertForMaskedLM(b)
        self.text_proj_m = nn.Linear(b["hidden_size"], embed)
        self.pairs = [(self.visual_encoder, self.visual_encoder_m), (self.vision_proj, self.vision_proj_m),
                      (self.text_encoder, self.text_encoder_m), (self.text_proj, self.text_proj_m)]
        for student, teacher in self.pairs:
            for p, p_m in zip(student.parameters(), teacher.parameters()):
                p_m.data.copy_(p.data)
                p_m.requires_grad = False
        self.register_buffer("image_queue", F.normalize(torch.randn(embed, queue), dim=0))
        self.register_buffer("text_queue", F.normalize(torch.randn(embed, queue), dim=0))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))

    @torch.no_grad()
    def update_teacher(self):
        m = self.c["momentum"]
        for student, teacher in self.pairs:
            for p, p_m in zip(student.parameters(), teacher.parameters()):
                p_m.data = p_m.data * m + p.data * (1.0 - m)

    @torch.no_grad()
    def enqueue(self, image_feat, text_feat):
        start = int(self.queue_ptr)
        for i in range(image_feat.shape[0]):  # wraps; the authors assert divisibility instead
            column = (start + i) % self.c["queue_size"]
            self.image_queue[:, column] = image_feat[i]
            self.text_queue[:, column] = text_feat[i]
        self.queue_ptr[0] = (start + image_feat.shape[0]) % self.c["queue_size"]

    def forward(self, image, ids, attention, mlm_ids, mlm_labels, alpha, negatives=None):
        with torch.no_grad():
            self.temp.clamp_(0.001, 0.5)
        batch = image.shape[0]
        image_embeds = self.visual_encoder(image)
        image_feat = F.normalize(self.vision_proj(image_embeds[:, 0]), dim=-1)
        text_embeds = self.text_encoder.bert(ids, attention, mode="text")
        text_feat = F.normalize(self.text_proj(text_embeds[:, 0]), dim=-1)
        with torch.no_grad():
            self.update_teacher()
            image_embeds_m = self.visual_encoder_m(image)
            image_feat_m = F.normalize(self.vision_proj_m(image_embeds_m[:, 0]), dim=-1)
            image_all = torch.cat([image_feat_m.t(), self.image_queue.clone().detach()], dim=1)
            text_embeds_m = self.text_encoder_m.bert(ids, attention, mode="text")
            text_feat_m = F.normalize(self.text_proj_m(text_embeds_m[:, 0]), dim=-1)
            text_all = torch.cat([text_feat_m.t(), self.text_queue.clone().detach()], dim=1)
            sim_i2t_m = image_feat_m @ text_all / self.temp
            sim_t2i_m = text_feat_m @ image_all / self.temp
            targets = torch.zeros_like(sim_i2t_m)
            targets.fill_diagonal_(1)
            i2t_targets = alpha * sim_i2t_m.softmax(dim=1) + (1 - alpha) * targets
            t2i_targets = alpha * sim_t2i_m.softmax(dim=1) + (1 - alpha) * targets
        sim_i2t = image_feat @ text_all / self.temp
        sim_t2i = text_feat @ image_all / self.temp
        loss_i2t = -(sim_i2t.log_softmax(dim=1) * i2t_targets).sum(dim=1).mean()
        loss_t2i = -(sim_t2i.log_softmax(dim=1) * t2i_targets).sum(dim=1).mean()
        loss_ita = (loss_i2t + loss_t2i) / 2
        self.enqueue(image_feat_m, text_feat_m)

        positive = self.text_encoder.bert(text_embeds, attention, image_embeds, mode="fusion")
        if negatives is None:
            with torch.no_grad():
                weights_i2t = sim_i2t[:, :batch].softmax(dim=1).fill_diagonal_(0)
                weights_t2i = sim_t2i[:, :batch].softmax(dim=1).fill_diagonal_(0)
            image_negative = [torch.multinomial(weights_t2i[b], 1).item() for b in range(batch)]
            text_negative = [torch.multinomial(weights_i2t[b], 1).item() for b in range(batch)]
        else:
            image_negative, text_negative = (n.tolist() for n in negatives)
        image_embeds_neg = torch.stack([image_embeds[i] for i in image_negative])
        text_embeds_neg = torch.stack([text_embeds[i] for i in text_negative])
        attention_neg = torch.stack([attention[i] for i in text_negative])
        negative = self.text_encoder.bert(
            torch.cat([text_embeds, text_embeds_neg]), torch.cat([attention, attention_neg]),
            torch.cat([image_embeds_neg, image_embeds]), mode="fusion")
        logits = self.itm_head(torch.cat([positive[:, 0], negative[:, 0]]))
        labels = torch.cat([torch.ones(batch, dtype=torch.long), torch.zeros(2 * batch, dtype=torch.long)])
        loss_itm = F.cross_entropy(logits, labels.to(image.device))

        with torch.no_grad():
            hidden_m = self.text_encoder_m.bert(mlm_ids, attention, image_embeds_m)
            soft = self.text_encoder_m.cls.predictions(hidden_m).softmax(dim=-1)
        scores = self.text_encoder.cls.predictions(self.text_encoder.bert(mlm_ids, attention, image_embeds))
        hard = F.cross_entropy(scores.flatten(0, 1), mlm_labels.flatten())
        distill = -(scores.log_softmax(dim=-1) * soft).sum(dim=-1)
        distill = distill[mlm_labels != -100].mean()
        loss_mlm = (1 - alpha) * hard + alpha * distill
        return loss_mlm, loss_ita, loss_itm
