"""Stock nodes, and running a prompt node by node."""

from pathlib import Path
from types import SimpleNamespace

import torch

from .node_api import VideoComponents, VideoFromComponents
from .sampling import fix_empty_latent_channels, prepare_noise, sample


class KSampler:
    def sample(
        self,
        model,
        seed,
        steps,
        cfg,
        sampler_name,
        scheduler,
        positive,
        negative,
        latent_image,
        denoise=1.0,
    ):
        samples = fix_empty_latent_channels(model, latent_image["samples"])
        noise = prepare_noise(samples, seed)
        samples = sample(
            model,
            noise,
            steps,
            cfg,
            sampler_name,
            scheduler,
            positive,
            negative,
            samples,
            noise_mask=latent_image.get("noise_mask"),
        )
        return (latent_image | {"samples": samples},)


class SaveVideo:
    """The video as a file in the output folder."""

    def run(self, video, filename_prefix, format, codec):
        import folder_paths

        from fourreal.files.media import write_video

        folder, name, count, _, _ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory()
        )
        path, parts = Path(folder) / f"{name}_{count:05}_.mp4", video.get_components()
        write_video(path, parts.images.movedim(-1, 1), float(parts.frame_rate))
        return (path,)


# name: inputs, function, whether it is an end of the graph
STOCK = {
    "VAEDecode": (
        {"samples": "LATENT", "vae": "VAE"},
        lambda samples, vae: (vae.decode(samples["samples"]).flatten(0, 1),),
        False,
    ),
    "BatchImagesNode": ({}, lambda images: (torch.cat(list(images.values())),), False),
    "CreateVideo": (
        {"images": "IMAGE", "fps": "FLOAT", "bit_depth": "INT"},
        lambda images, fps, bit_depth: (VideoFromComponents(VideoComponents(images, fps)),),
        False,
    ),
    "PreviewImage": ({"images": "IMAGE"}, lambda images: (images,), True),
    "SaveVideo": (
        {"video": "VIDEO", "filename_prefix": "STRING", "format": "COMBO", "codec": "COMBO"},
        SaveVideo().run,
        True,
    ),
}


def object_info(nodes: list) -> dict:
    """What the server's /object_info says about these nodes and the stock ones, in brief."""
    info = {
        name: {
            "input": {"required": {k: (kind, {}) for k, kind in inputs.items()}},
            "output_node": end,
        }
        for name, (inputs, _, end) in STOCK.items()
    }
    for node in nodes:
        schema = node.GET_SCHEMA()
        inputs = {"required": {}, "optional": {}}
        for i in schema.inputs:
            inputs["optional" if i.optional else "required"][i.id] = (i.io_type, i._options)
        info[schema.node_id] = {"input": inputs, "output_node": schema.is_output_node}
    return info


def execute(prompt: dict, nodes: list) -> dict:
    """Run a prompt in the order of its links; the outputs of every node by id."""
    known = {node.GET_SCHEMA().node_id: node for node in nodes}
    outputs = {}

    def value(given):
        if isinstance(given, list):
            run(given[0])
            return outputs[given[0]][given[1]]
        return given

    def run(key: str):
        if key in outputs:
            return
        name, inputs = prompt[key]["class_type"], {}
        for place, given in prompt[key]["inputs"].items():
            group, _, member = place.partition(".")
            if member:
                inputs.setdefault(group, {})[member] = value(given)
            else:
                inputs[group] = value(given)
        if name in STOCK:
            outputs[key] = STOCK[name][1](**inputs)
        else:
            hidden = SimpleNamespace(unique_id=key, prompt=prompt, extra_pnginfo=None)
            node = type(name, (known[name],), {"hidden": hidden})
            outputs[key] = node.execute(**inputs).args

    for key in prompt:
        run(key)
    return outputs
