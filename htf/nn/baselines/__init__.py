"""Networks to compare with: residual networks, deep networks, and networks that fit any finite sample."""

from htf.nn.baselines.deep import DeepNetwork
from htf.nn.baselines.finite_sample import FiniteSampleNetwork, finite_sample_network
from htf.nn.baselines.receptive import receptive_field
from htf.nn.baselines.resnet import ResNet, Stem, resnet18, small_resnet

__all__ = [
    "DeepNetwork",
    "FiniteSampleNetwork",
    "ResNet",
    "Stem",
    "finite_sample_network",
    "receptive_field",
    "resnet18",
    "small_resnet",
]
