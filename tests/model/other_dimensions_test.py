#!/usr/bin/env python3
"""The golden tests on fixtures of other dimensions: ALBEF_GOLDENS, nothing rebuilt.

    tests/model/other_dimensions_test.py --wheel DIR [--keep DIR] TEST_PROGRAM…

Makes a folder in the layout of tests/golden/pretrain with the Python peer (benchmarks/peer), an independent
implementation, in float64, and runs the programs on it. Every size differs from those of the fixtures
that the project keeps.
"""
import argparse
import collections
import copy
import json
import math
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "tests/formats"), str(ROOT / "benchmarks/peer")]
GOLDEN = ROOT / "tests/golden/pretrain"

TIES = {"cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias"}
CLS, MASK = 3, 5
SEED = 20210716


def config(**sizes):
    bert = {"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0, "initializer_range": 0.02,
            "layer_norm_eps": 1e-12, "pad_token_id": 0, "type_vocab_size": 2,
            "encoder_width": sizes["vision_width"], **sizes.pop("bert")}
    return {"vision_ln_eps": 1e-6, "momentum": 0.97, "temp": 0.07, "mlm_probability": 0.3, "alpha": 0.4,
            "special_tokens": {"pad": 0, "cls": CLS, "mask": MASK}, "bert": bert, **sizes}


STEP = config(image_res=40, patch_size=8, vision_width=48, vision_depth=3, vision_heads=3, vision_mlp_ratio=2,
              embed_dim=12, queue_size=35,
              bert={"hidden_size": 32, "num_hidden_layers": 5, "num_attention_heads": 4, "intermediate_size": 72,
                    "max_position_embeddings": 21, "vocab_size": 131, "fusion_layer": 3})
CURVE = config(image_res=48, patch_size=16, vision_width=16, vision_depth=1, vision_heads=2, vision_mlp_ratio=3,
               embed_dim=20, queue_size=18,
               bert={"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 40,
                     "max_position_embeddings": 14, "vocab_size": 97, "fusion_layer": 1})
RANKS = config(image_res=16, patch_size=4, vision_width=24, vision_depth=2, vision_heads=1, vision_mlp_ratio=4,
               embed_dim=6, queue_size=36,
               bert={"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 1, "intermediate_size": 24,
                     "max_position_embeddings": 13, "vocab_size": 83, "fusion_layer": 2})


class Writer:
    """Files of the folder that is made."""

    def __init__(self, torch, folder):
        self.folder = folder
        self.byte = torch.uint8
        self.names = {torch.float32: "F32", torch.float64: "F64", torch.int64: "I64"}

    def json(self, name, content):
        (self.folder / f"{name}.json").write_text(json.dumps(content))

    def tensors(self, name, tensors):
        header, data = {}, b""
        # Wide elements first, so that all are aligned.
        for key, tensor in sorted(tensors.items(), key=lambda item: -item[1].element_size()):
            # The wheel's Python side may be without NumPy.
            raw = bytes(tensor.detach().contiguous().reshape(-1).view(dtype=self.byte).tolist())
            header[key] = {"dtype": self.names[tensor.dtype], "shape": list(tensor.shape),
                           "data_offsets": [len(data), len(data) + len(raw)]}
            data += raw
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        (self.folder / f"{name}.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)


def is_second_name(key):
    return any(key.endswith(second) for second in TIES)


def initial_state(torch, peer, sizes):
    """In float32, with a teacher that differs from the student."""
    model = peer.Albef(sizes)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name != "temp":
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return {key: tensor.clone() for key, tensor in model.state_dict().items()}


def load(torch, peer, sizes, state):
    model = peer.Albef(sizes).double().train()
    model.load_state_dict({k: v.double() if v.is_floating_point() else v for k, v in state.items()})
    return model


def trainable(model):
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def draw_batch(torch, sizes, batch, length, **special):
    """Texts of different lengths, masked tokens and negatives, as a data loader and a step would draw them."""
    vocab = sizes["bert"]["vocab_size"]
    lengths = special.get("lengths") or [length] + torch.randint(2, length + 1, (batch - 1,)).tolist()
    place = torch.arange(length).expand(batch, length)
    attention = (place < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(6, vocab, (batch, length)) * attention
    ids[:, 0] = CLS
    selected = (torch.rand(batch, length) < 0.35) & (attention == 1) & (place > 0)
    selected[0, 1] = True
    selected = special.get("selected", lambda chosen: chosen)(selected)
    labels = torch.where(selected, ids, torch.full_like(ids, -100))
    kind = torch.rand(batch, length)
    masked = torch.where(selected & (kind < 0.8), torch.full_like(ids, MASK), ids)
    masked = torch.where(selected & (kind > 0.9), torch.randint(vocab, (batch, length)), masked)
    masked = torch.where(selected, special.get("replacement", lambda kept: kept)(masked), masked)
    shift = torch.randint(1, batch, (2, batch))
    negatives = (torch.arange(batch) + shift) % batch
    if special.get("same_negative"):
        negatives[:] = torch.tensor([1, *[0] * (batch - 1)])
    return {"input_ids": ids, "attention_mask": attention, "mlm_input_ids": masked, "mlm_labels": labels,
            "itm_image_neg_idx": negatives[0].clone(), "itm_text_neg_idx": negatives[1].clone()}


def forward(model, image, batch, alpha):
    return model(image.double(), batch["input_ids"], batch["attention_mask"], batch["mlm_input_ids"],
                 batch["mlm_labels"], alpha, (batch["itm_image_neg_idx"], batch["itm_text_neg_idx"]))


def intermediates(torch, model, image, batch, alpha, queues):
    """What the step computed on its way; after forward, so with the teacher that the step used."""
    normalize = torch.nn.functional.normalize
    ids, attention = batch["input_ids"], batch["attention_mask"]
    out = {}
    with torch.no_grad():
        for m, image_proj, text_proj in (("", model.vision_proj, model.text_proj),
                                         ("_m", model.vision_proj_m, model.text_proj_m)):
            out[f"image_embeds{m}"] = getattr(model, f"visual_encoder{m}")(image.double())
            text = getattr(model, f"text_encoder{m}").bert(ids, attention, mode="text")
            if not m:
                out["text_embeds"] = text
            out[f"image_feat{m}"] = normalize(image_proj(out[f"image_embeds{m}"][:, 0]), dim=-1)
            out[f"text_feat{m}"] = normalize(text_proj(text[:, 0]), dim=-1)
        for direction, query, key, queue in (("i2t", "image", "text", queues[1]), ("t2i", "text", "image", queues[0])):
            keys = torch.cat([out[f"{key}_feat_m"].t(), queue], dim=1)
            for m in ("", "_m"):
                out[f"sim_{direction}{m}"] = out[f"{query}_feat{m}"] @ keys / model.temp
            targets = alpha * out[f"sim_{direction}_m"].softmax(dim=1)
            targets.diagonal().add_(1 - alpha)
            out[f"sim_{direction}_targets"] = targets
            weights = out[f"sim_{direction}"][:, :len(ids)].softmax(dim=1)
            out[f"itm_weights_{direction}"] = weights.fill_diagonal_(0)
        cls = []
        for images, texts in ((slice(None), slice(None)), (batch["itm_image_neg_idx"], slice(None)),
                              (slice(None), batch["itm_text_neg_idx"])):
            cls.append(model.text_encoder.bert(out["text_embeds"][texts], attention[texts],
                                               out["image_embeds"][images], mode="fusion")[:, 0])
        out["itm_cls"] = torch.cat(cls)
        out["itm_logits"] = model.itm_head(out["itm_cls"])
        out["itm_labels"] = torch.tensor([1] * len(ids) + [0] * 2 * len(ids))
        selected = batch["mlm_labels"] != -100
        for m in ("", "_m"):
            encoder = getattr(model, f"text_encoder{m}")
            hidden = encoder.bert(batch["mlm_input_ids"], attention, out[f"image_embeds{m}"])
            out[f"mlm_logits{m}_masked"] = encoder.cls.predictions(hidden)[selected]
    return out


def post(model):
    return {key: tensor for key, tensor in model.state_dict().items()
            if not is_second_name(key) and not key.endswith("position_ids") and
            (key in ("temp", "image_queue", "text_queue", "queue_ptr") or "_m." in key)}


def step_and_edges(torch, peer, write):
    batch_size, length = 5, 11
    init = initial_state(torch, peer, STEP)
    write.tensors("step_init", init)
    image = torch.randn(batch_size, 3, STEP["image_res"], STEP["image_res"])

    alpha = 0.35
    batch = draw_batch(torch, STEP, batch_size, length)
    write.tensors("step_inputs", {"image": image, **batch})
    model = load(torch, peer, STEP, init)
    queues = model.image_queue.clone(), model.text_queue.clone()
    losses = forward(model, image, batch, alpha)
    sum(losses).backward()
    expected = dict(zip(("loss_mlm", "loss_ita", "loss_itm"), losses))
    expected |= intermediates(torch, model, image, batch, alpha, queues)
    expected |= {f"grad.{name}": p.grad for name, p in trainable(model).items()}
    expected |= {f"post.{key}": tensor for key, tensor in post(model).items()}
    write.tensors("step_expected", expected)
    zero = [name for name in trainable(model) if name.endswith(".self.key.bias")]
    write.json("step", {"config": STEP, "alpha": alpha, "zero_gradient_parameters": zero})

    def only(*places):
        def select(chosen):
            chosen = torch.zeros_like(chosen)
            for place in places:
                chosen[place] = True
            return chosen
        return select

    variants = [
        ("alpha0", {"alpha": 0.0}), ("alpha1", {"alpha": 1.0}),
        ("uneven_mask", {"selected": only((0, 1), (2, 1), (3, 1))}), ("one_mask", {"selected": only((0, 2))}),
        ("temp_low", {"temp": 0.0004}), ("temp_high", {"temp": 0.8}),
        ("ptr_wrap", {"pointer": STEP["queue_size"] - 2}),
        ("empty_caption", {"lengths": [length, 1, 4, 7, 2]}),
        ("same_negative", {"same_negative": True}), ("no_padding", {"lengths": [length] * batch_size}),
        ("pad_replacement", {"replacement": torch.zeros_like}), ("no_mask", {"selected": only()}),
    ]
    order = list(trainable(model))
    full = ("temp", "itm_head.weight", "vision_proj.weight", "text_encoder.cls.predictions.bias")
    described, inputs, expected = [], {"image": image}, {}
    for name, special in variants:
        alpha = special.get("alpha", 0.3)
        batch = draw_batch(torch, STEP, batch_size, length, **special)
        temp = torch.tensor(special.get("temp", STEP["temp"]))
        pointer = torch.tensor([special.get("pointer", 10)])
        model = load(torch, peer, STEP, {**init, "temp": temp, "queue_ptr": pointer})
        queues = model.image_queue.clone(), model.text_queue.clone()
        losses = forward(model, image, batch, alpha)
        # Without a masked token MLM's loss is NaN and has no gradient.
        (sum(losses[1:]) if name == "no_mask" else sum(losses)).backward()
        found = dict(zip(("loss_mlm", "loss_ita", "loss_itm"), losses))
        weights = intermediates(torch, model, image, batch, alpha, queues)
        found |= {key: weights[key] for key in ("itm_weights_i2t", "itm_weights_t2i")}
        gradients = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in trainable(model).items()}
        found["grad_norms"] = torch.stack([gradients[n].norm() for n in order])
        found |= {f"grad.{n}": gradients[n] for n in full}
        found |= {f"post.{key}": tensor for key, tensor in post(model).items()}
        expected |= {f"{name}.{key}": tensor for key, tensor in found.items()}
        inputs |= {f"{name}.{key}": tensor for key, tensor in (*batch.items(), ("temp", temp), ("queue_ptr", pointer))}
        described.append({"name": name, "alpha": alpha, "n_masked": int((batch["mlm_labels"] != -100).sum())})
    write.tensors("step_edges_inputs", inputs)
    write.tensors("step_edges_expected", expected)
    write.json("step_edges", {"config": STEP, "variants": described, "grad_norm_order": order})


def learning_rate(optimizer, schedular, step_size, epoch, step):
    low, high, warmup = schedular["min_lr"], optimizer["lr"], schedular["warmup_epochs"]
    time = min((step - 1) // step_size if step else 0, warmup) if epoch == 0 else epoch + warmup
    if time < warmup:
        return schedular["warmup_lr"] + time * (high - schedular["warmup_lr"]) / warmup
    return low + 0.5 * (high - low) * (1 + math.cos(math.pi * (time - warmup) / schedular["epochs"]))


def make_optimizer(torch, model, optimizer):
    undecayed = [p for n, p in trainable(model).items() if p.dim() == 1 or n.endswith(".bias")]
    decayed = [p for n, p in trainable(model).items() if not (p.dim() == 1 or n.endswith(".bias"))]
    return torch.optim.AdamW([{"params": undecayed, "weight_decay": 0.0},
                              {"params": decayed, "weight_decay": optimizer["weight_decay"]}],
                             lr=optimizer["lr"], betas=optimizer["betas"], eps=optimizer["eps"])


def grad_norm(torch, model):
    return torch.cat([p.grad.flatten() for p in trainable(model).values()]).norm()


def final(model):
    return {f"final.{key}": tensor for key, tensor in model.state_dict().items()
            if not is_second_name(key) and not key.endswith("position_ids")}


OPTIMIZER = {"opt": "adamW", "lr": 2e-3, "weight_decay": 0.03, "betas": [0.9, 0.999], "eps": 1e-8}


def curve(torch, peer, write):
    schedular = {"epochs": 5, "min_lr": 2e-4, "warmup_lr": 1e-4, "warmup_epochs": 2}
    steps_per_epoch, step_size, num_steps, batch_size = 8, 3, 20, 3
    init = initial_state(torch, peer, CURVE)
    write.tensors("small_init", init)
    model = load(torch, peer, CURVE, init)
    adamw = make_optimizer(torch, model, OPTIMIZER)
    inputs = {"images": torch.randn(9, 3, CURVE["image_res"], CURVE["image_res"])}
    steps = collections.defaultdict(list)
    for i in range(num_steps):
        epoch, step = divmod(i, steps_per_epoch)
        alpha = CURVE["alpha"] * (min(1, step / steps_per_epoch) if epoch == 0 else 1)
        rate = learning_rate(OPTIMIZER, schedular, step_size, epoch, step)
        batch = draw_batch(torch, CURVE, batch_size, 9)
        batch["image_index"] = torch.randperm(len(inputs["images"]))[:batch_size]
        inputs |= {f"s{i:02}.{key}": tensor for key, tensor in batch.items()}
        adamw.zero_grad()
        losses = forward(model, inputs["images"][batch["image_index"]], batch, alpha)
        sum(losses).backward()
        for group in adamw.param_groups:
            group["lr"] = rate
        norm = grad_norm(torch, model)
        adamw.step()
        for quantity, value in (("loss_mlm", losses[0]), ("loss_ita", losses[1]), ("loss_itm", losses[2]),
                                ("grad_norm", norm), ("alpha", alpha), ("lr", rate), ("temp", model.temp)):
            steps[quantity].append(value.item() if torch.is_tensor(value) else value)
    expected = {f"steps.{key}": torch.tensor(values, dtype=torch.float64) for key, values in steps.items()}
    expected |= final(model)
    for name, parameter in trainable(model).items():
        for moment in ("exp_avg", "exp_avg_sq"):
            expected[f"{moment}.{name}"] = adamw.state[parameter][moment]
    write.tensors("curve_inputs", inputs)
    write.tensors("curve_expected", expected)
    write.json("curve", {"config": CURVE, "optimizer": OPTIMIZER, "schedular": schedular,
                         "iterations_per_epoch": steps_per_epoch, "schedule_rule": {"step_size": step_size}})


def ranks(torch, peer, write):
    init = initial_state(torch, peer, RANKS)
    write.tensors("ranks_init", init)
    for world in (2, 4):
        batch_size, alphas = 3, [0.0, 0.2, 0.4, 0.4, 0.4]
        model = load(torch, peer, RANKS, init)
        adamw = make_optimizer(torch, model, OPTIMIZER)
        inputs = {"images": torch.randn(10, 3, RANKS["image_res"], RANKS["image_res"])}
        expected, losses_of, norms = {}, [], []
        for step, alpha in enumerate(alphas):
            start = copy.deepcopy(model.state_dict())
            gradients, features, losses_of_ranks = [], [], []
            for rank in range(world):
                batch = draw_batch(torch, RANKS, batch_size, 7 + rank)
                batch["image_index"] = torch.randperm(len(inputs["images"]))[:batch_size]
                inputs |= {f"s{step}.r{rank}.{key}": tensor for key, tensor in batch.items()}
                model.load_state_dict(start)
                adamw.zero_grad()
                losses = forward(model, inputs["images"][batch["image_index"]], batch, alpha)
                sum(losses).backward()
                gradients.append([p.grad.clone() for p in trainable(model).values()])
                columns = [(int(start["queue_ptr"]) + b) % RANKS["queue_size"] for b in range(batch_size)]
                features.append((model.image_queue[:, columns].clone(), model.text_queue[:, columns].clone()))
                losses_of_ranks.append([loss.item() for loss in losses])
            for parameter, parts in zip(trainable(model).values(), zip(*gradients)):
                parameter.grad = sum(parts) / world
            if step == 0:
                expected |= {f"grad0.{n}": p.grad.clone() for n, p in trainable(model).items()
                             if n in ("temp", "itm_head.weight", "vision_proj.weight")}
            norms.append(grad_norm(torch, model).item())
            losses_of.append(losses_of_ranks)
            # Clamped temperature and teacher are the same on all ranks; the queues take all features.
            with torch.no_grad():
                for queue, side in ((model.image_queue, 0), (model.text_queue, 1)):
                    queue.copy_(start["image_queue" if side == 0 else "text_queue"])
                    for n, column in enumerate(torch.cat([f[side] for f in features], dim=1).t()):
                        queue[:, (int(start["queue_ptr"]) + n) % RANKS["queue_size"]] = column
                model.queue_ptr[0] = (int(start["queue_ptr"]) + world * batch_size) % RANKS["queue_size"]
            adamw.step()
        for i, loss in enumerate(("loss_mlm", "loss_ita", "loss_itm")):
            expected[f"steps.{loss}"] = torch.tensor([[r[i] for r in of_ranks] for of_ranks in losses_of],
                                                     dtype=torch.float64)
        expected["steps.grad_norm"] = torch.tensor(norms, dtype=torch.float64)
        write.tensors(f"ranks{world}_inputs", inputs)
        write.tensors(f"ranks{world}_expected", expected | final(model))
        write.json(f"ranks{world}", {"config": RANKS, "world_size": world, "steps": len(alphas), "alpha": alphas,
                                     "optimizer": OPTIMIZER})


def checkpoint(torch, peer, write):
    """What the authors' code would have saved after two epochs, in both formats of torch.save."""
    model = peer.Albef(STEP).float().train()
    model.load_state_dict(initial_state(torch, peer, STEP))
    stored = {"train_file": ["one.json"], "image_res": STEP["image_res"], "vision_width": STEP["vision_width"],
              "embed_dim": STEP["embed_dim"], "batch_size": 5, "temp": 0.07, "mlm_probability": 0.15,
              "queue_size": STEP["queue_size"], "momentum": 0.97, "alpha": 0.4,
              "optimizer": {"opt": "adamW", "lr": 2e-3, "weight_decay": 0.03},
              "schedular": {"sched": "cosine", "lr": 2e-3, "epochs": 4, "min_lr": 1e-4, "decay_rate": 1,
                            "warmup_lr": 1e-4, "warmup_epochs": 5, "cooldown_epochs": 0}}
    adamw = make_optimizer(torch, model, OPTIMIZER)
    num_steps, epoch = 3, 1
    for _ in range(num_steps):
        adamw.zero_grad()
        batch = draw_batch(torch, STEP, 5, 8)
        images = torch.randn(5, 3, STEP["image_res"], STEP["image_res"])
        sum(model(images, batch["input_ids"], batch["attention_mask"], batch["mlm_input_ids"], batch["mlm_labels"],
                  0.2, (batch["itm_image_neg_idx"], batch["itm_text_neg_idx"]))).backward()
        adamw.step()
    names = {id(p): name for name, p in trainable(model).items()}
    index_to_name = [names[id(p)] for group in adamw.param_groups for p in group["params"]]
    states = adamw.state_dict()["state"]
    groups, first = [], 0
    for group in adamw.param_groups:
        count = len(group["params"])
        groups.append({"weight_decay": group["weight_decay"], "lr": 1.5e-3, "betas": (0.9, 0.999), "eps": 1e-8,
                       "amsgrad": False, "initial_lr": 2e-3, "params": list(range(first, first + count))})
        first += count
    scheduler = {"param_group_field": "lr", "_initial_param_group_field": "initial_lr", "base_values": [2e-3, 2e-3],
                 "metric": None, "noise_range_t": None, "noise_pct": 0.67, "noise_type": "normal",
                 "noise_std": 1.0, "noise_seed": 42, "t_initial": 4, "t_mul": 1.0, "lr_min": 1e-4, "decay_rate": 1,
                 "cycle_limit": 1, "warmup_t": 5, "warmup_lr_init": 1e-4, "warmup_prefix": True,
                 "t_in_epochs": True, "warmup_steps": [(2e-3 - 1e-4) / 5] * 2}
    for name, zip_format in (("checkpoint_01.pth", True), ("checkpoint_old.pth", False)):
        state = {i: {"step": s["step"] if zip_format else int(s["step"]), "exp_avg": s["exp_avg"],
                     "exp_avg_sq": s["exp_avg_sq"]} for i, s in states.items()}
        torch.save({"model": model.state_dict(), "optimizer": {"state": state, "param_groups": groups},
                    "lr_scheduler": scheduler, "config": stored, "epoch": epoch}, write.folder / name,
                   _use_new_zipfile_serialization=zip_format)
    expected = {f"model.{key}": tensor for key, tensor in model.state_dict().items()}
    for i, name in enumerate(index_to_name):
        expected |= {f"{moment}.{name}": states[i][moment] for moment in ("exp_avg", "exp_avg_sq")}
    write.tensors("checkpoint_expected", expected)
    values = [sum(p.numel() for p in group["params"]) for group in adamw.param_groups]
    write.json("checkpoint", {
        "files": {"checkpoint_01.pth": "", "checkpoint_old.pth": ""}, "config": STEP, "stored_config": stored,
        "epoch": epoch, "optimizer_steps": num_steps, "lr_scheduler": scheduler, "param_groups": groups,
        "param_group_values": values, "index_to_name": index_to_name, "model_keys": list(model.state_dict())})


def interpolate(torch, write):
    cases, tensors = [], {}
    for old, new, width in ((5, 3, 6), (3, 11, 4), (7, 8, 24)):
        name = f"g{old}to{new}"
        tokens = torch.randn(1, old * old + 1, width)
        grid = tokens[:, 1:].double().reshape(1, old, old, width).permute(0, 3, 1, 2)
        grid = torch.nn.functional.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
        output = torch.cat([tokens[:, :1].double(), grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
        tensors |= {f"{name}.input": tokens, f"{name}.output": output}
        cases.append({"name": name, "from_grid": old, "to_grid": new, "dim": width})
    write.tensors("interpolate", tensors)
    write.json("interpolate", {"cases": cases})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wheel", type=pathlib.Path, required=True, help="folder that holds torch/")
    parser.add_argument("--keep", type=pathlib.Path, help="make the fixtures here and leave them")
    parser.add_argument("programs", nargs="*", help="test programs, each with its arguments in one word")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        from check_pth_with_torch import import_torch
        torch = import_torch(arguments.wheel, pathlib.Path(name))
        import albef_peer as peer
        torch.set_num_threads(1)
        torch.manual_seed(SEED)
        goldens = arguments.keep or pathlib.Path(name) / "goldens"
        (goldens / "pretrain").mkdir(parents=True, exist_ok=True)
        write = Writer(torch, goldens / "pretrain")
        step_and_edges(torch, peer, write)
        curve(torch, peer, write)
        ranks(torch, peer, write)
        checkpoint(torch, peer, write)
        interpolate(torch, write)
        # These hold no dimensions, or those of the full-size model.
        for file in ("schedule.json", "init_stats.json"):
            shutil.copy(GOLDEN / file, goldens / "pretrain")
        failed = 0
        for program in arguments.programs:
            print(f"== {program}", flush=True)
            failed += subprocess.run(program.split(), env=os.environ | {"ALBEF_GOLDENS": str(goldens)},
                                     check=False).returncode != 0
        sys.exit(failed > 0)


if __name__ == "__main__":
    main()
