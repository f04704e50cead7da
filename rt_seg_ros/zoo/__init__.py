"""Weights and their cards: found by name, checked by hash, never unpickled.

A weight file is ``models/<network>_<label space>.safetensors`` (fp16); beside it lies its card of the same name,
``.yaml``. What is needed to run the network (its name and options, label space, normalisation) is also in the
safetensors header, so a file somewhere else works without its card. A label space of one's own stands there whole. (The
size of the frames that they learnt from is not in the headers of files that are older than that field.)
"""

from rt_seg_ros.zoo.card import DEFAULT_MEAN, DEFAULT_STD, ModelCard
from rt_seg_ros.zoo.finding import DEFAULT_LABEL_SPACE, find_model, list_models
from rt_seg_ros.zoo.scores import CardScore, card_score, learnt_from, training_parts
from rt_seg_ros.zoo.weights import build_network, check_hash, read_card, read_weights_header, save_weights

__all__ = [
    "DEFAULT_LABEL_SPACE",
    "DEFAULT_MEAN",
    "DEFAULT_STD",
    "CardScore",
    "ModelCard",
    "build_network",
    "card_score",
    "check_hash",
    "find_model",
    "learnt_from",
    "list_models",
    "read_card",
    "read_weights_header",
    "save_weights",
    "training_parts",
]
