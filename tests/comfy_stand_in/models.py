"""Models without memory management, cancel, and ModelPatcher with what the nodes patch."""

import contextlib

import torch

CPU = torch.device("cpu")


class InterruptProcessingException(BaseException):
    pass


interrupted = False


def interrupt_current_processing(value=True):
    global interrupted
    interrupted = value


def throw_exception_if_processing_interrupted():
    if interrupted:
        interrupt_current_processing(False)
        raise InterruptProcessingException


def load_models_gpu(models, memory_required=0):
    pass


def free_memory(memory_required, device):
    return []


def should_use_bf16(device=None):
    return False


class ProgressBar:
    def __init__(self, total):
        self.total = total

    def update_absolute(self, value, total=None, preview=None):
        self.value = value


class LatentFormat:
    latent_rgb_factors = None
    latent_rgb_factors_bias = None

    def process_in(self, latent):
        return latent

    def process_out(self, latent):
        return latent


class ModelPatcher:
    def __init__(self, model, load_device, offload_device):
        self.model, self.load_device, self.offload_device = model, load_device, offload_device
        self.object_patches, self.attachments, self.wrappers = {}, {}, {}
        self.model_options = {"transformer_options": {}}

    def clone(self):
        other = type(self)(self.model, self.load_device, self.offload_device)
        other.object_patches = dict(self.object_patches)
        other.attachments = dict(self.attachments)
        other.wrappers = {kind: dict(found) for kind, found in self.wrappers.items()}
        other.model_options = dict(self.model_options)
        other.model_options["transformer_options"] = dict(self.model_options["transformer_options"])
        return other

    def get_model_object(self, name):
        if name in self.object_patches:
            return self.object_patches[name]
        found = self.model
        for part in name.split("."):
            found = getattr(found, part)
        return found

    def add_object_patch(self, name, obj):
        self.object_patches[name] = obj

    def set_attachments(self, key, attachment):
        self.attachments[key] = attachment

    def get_attachment(self, key):
        return self.attachments.get(key)

    def add_wrapper_with_key(self, wrapper_type, key, wrapper):
        self.wrappers.setdefault(wrapper_type, {}).setdefault(key, []).append(wrapper)

    def remove_wrappers_with_key(self, wrapper_type, key):
        self.wrappers.get(wrapper_type, {}).pop(key, None)

    def set_model_denoise_mask_function(self, denoise_mask_function):
        self.model_options["denoise_mask_function"] = denoise_mask_function

    @contextlib.contextmanager
    def _patched(self):
        """The model with the object patches in place."""
        places = []
        for name, new in self.object_patches.items():
            owner, _, last = name.rpartition(".")
            owner = self.get_model_object(owner) if owner else self.model
            setattr(owner, last, new)
            places.append((owner, last))
        try:
            yield
        finally:
            for owner, last in places:
                delattr(owner, last)
