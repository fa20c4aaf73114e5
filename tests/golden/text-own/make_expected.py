"""Writes vocab.txt and expected.jsonl of this folder: python3 make_expected.py

An implementation of the caption cleaning and of BERT's uncased WordPiece apart from the one in
dataloader/, on Python's own Unicode tables and regular expressions. Needs nothing but Python 3.11
(Unicode 14). All sentences are made up for this purpose.
"""
import json
import re
import unicodedata

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = """a an the and of in on two red green blue big small cat dog bird tree house boat person child
children sky river snow play run jump near over under with cafe naive σοφος i x t
shirt 日 本 ― ! ? . , ; = ` - / ( ) [ ] # < >""".split()
PIECES = "s ing ed er ly ner n p 1 2 3 e x a t h u".split()
DIGITS = list("0123456789")

SENTENCES = [
    "A red cat and two BLUE dogs run near the river.",
    "Two children jumping, playing & running in the snow!",
    "  The   small-boat/house:\t\tbig  ",
    "the bird\n\n",
    "a\tcat",
    "Café naïve CAFÉ cafe\u0301",
    "ΣΟΦΟΣ ΣΟΦΟΣ. σοφος",
    "<PERSON> with a t-shirt near <person>'s dog",
    "日本 sky日tree",
    "İ i",
    "x≠x x\u037ex x\u1fefx",
    "a [MASK] cat[SEP] dog [mask] [UNK] [ CLS ]",
    "[PAD] a [PAD]",
    "zzz cats catz dogged",
    "x" * 100 + " " + "x" * 101,
    "",
    " \t\n",
    "\u200b\ufeff\u00ad",
    "the\u00a0cat\u2003dog\u2028bird\u3000tree",
    "soft\u00adhyphen ca\u200bt d\u0000og \ufffdbird \ue000tree",
    "(the ―dog― #cat; ~bird) <over> the 'tree'",
    " ".join(["the cat"] * 20),
    "a 123 12 7 x1",
    "snow \U0001f600 sky \ufdd0",
    "\u1e69now \uc548 \u0958",
]


def clean_caption(text, max_words):
    text = re.sub(r"[,.'!?\"()*#:;~]", "", text.lower())
    text = text.replace("-", " ").replace("/", " ").replace("<person>", "person")
    text = re.sub(r"\s{2,}", " ", text).rstrip("\n").strip(" ")
    return " ".join(text.split(" ")[:max_words])


def clean_question(text, max_words):
    text = re.sub(r"[,.'!?\"()*#:;~]", "", text.lower()).replace("-", " ").replace("/", " ").rstrip(" ")
    return " ".join(text.split(" ")[:max_words])


def is_cjk(char):
    blocks = [(0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F),
              (0x2B740, 0x2B81F), (0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F)]
    return any(low <= ord(char) <= high for low, high in blocks)


def is_punctuation(char):
    if ord(char) < 128:
        return char.isprintable() and not char.isalnum() and char != " "
    return unicodedata.category(char).startswith("P")


def words_of(text):
    spaced = ""
    for char in "".join(c.lower() for c in text):
        if char in "\t\n\r\u2028\u2029" or unicodedata.category(char) == "Zs":
            spaced += " "
        elif char == "\ufffd" or unicodedata.category(char).startswith("C"):
            continue
        else:
            spaced += f" {char} " if is_cjk(char) else char
    for run in spaced.split():
        plain = "".join(c for c in unicodedata.normalize("NFD", run) if unicodedata.category(c) != "Mn")
        word = ""
        for char in plain:
            if is_punctuation(char):
                if word:
                    yield word
                yield char
                word = ""
            else:
                word += char
        if word:
            yield word


def pieces_of(word, ids):
    if len(word) > 100:
        return [ids["[UNK]"]]
    pieces, begin = [], 0
    while begin < len(word):
        for end in range(len(word), begin, -1):
            piece = ("##" if begin else "") + word[begin:end]
            if piece in ids:
                pieces.append(ids[piece])
                begin = end
                break
        else:
            return [ids["[UNK]"]]
    return pieces


def tokenize(text, ids):
    result = [ids["[CLS]"]]
    for part in re.split(r"(\[(?:PAD|UNK|CLS|SEP|MASK)\])", text):
        if part in SPECIAL:
            result.append(ids[part])
        else:
            for word in words_of(part):
                result += pieces_of(word, ids)
    return result


def main():
    tokens = SPECIAL + WORDS + DIGITS + ["##" + piece for piece in PIECES]
    assert len(set(tokens)) == len(tokens)
    ids = {token: i for i, token in enumerate(tokens)}
    with open("vocab.txt", "w", encoding="utf-8", newline="\n") as file:
        file.write("".join(token + "\n" for token in tokens))
    with open("expected.jsonl", "w", encoding="ascii", newline="\n") as file:
        for text in SENTENCES:
            caption = clean_caption(text, 30)
            file.write(json.dumps({
                "text": text, "ids": tokenize(text, ids),
                "caption": caption, "caption_ids_25": tokenize(caption, ids)[:25],
                "question_30": clean_question(text, 30),
            }) + "\n")


if __name__ == "__main__":
    main()
