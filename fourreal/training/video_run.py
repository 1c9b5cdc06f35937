"""A training run of a video model, whatever it is trained on: the model, the text, the result."""

from typing import Any

import torch
from torch import Tensor, nn

from fourreal.embedded.text import save_text_encoder
from fourreal.training.captions import CaptionEmbeddings
from fourreal.training.cuda_graphs import TrainingGraphs
from fourreal.training.loop import Loop, StartWeights
from fourreal.training.lora import save_lora
from fourreal.training.run_state import whole
from fourreal.training.video_config import VideoConfig, grids_of
from fourreal.training.video_model import TextToGrid, prepare_pipeline
from fourreal.video.transformer import apply_view_time
from fourreal.video.wan_files import save_transformer


class VideoRun:
    """The model with what is trained of it, its loop and its captions, and what it saves.

    captions are all that training and sampling can meet.
    """

    def __init__(self, config: VideoConfig, captions: list[str]):
        self.config, self.grids = config, grids_of(config)
        # 1. The model, with what is trained of it
        torch.manual_seed(config.loop.seed)
        self.pipe, self.trains_text = prepare_pipeline(config)
        self.transformer = self.pipe.transformer
        self.model: nn.Module = self.transformer
        if self.trains_text:
            self.model = TextToGrid(self.transformer, self.pipe.text_encoder, self.pipe.tokenizer)
        self.start = StartWeights(self.model, config.start_share)
        # 2. The loop, which moves it to the device and goes on from a checkpoint
        notes = {"tune": config.tune, "conditioning": self.pipe.config.conditioning}
        self.result = "lora" if config.tune == "lora" else "vace" if config.vace else "transformer"
        self.loop = Loop(config.loop, self.model.train(), notes, f"{self.result}.safetensors")
        self.device = self.loop.accelerator.device
        if config.start_share and self.loop.accelerator.distributed_type == "FSDP":
            raise ValueError("--start-share needs whole weights, which FSDP spreads; leave it out.")
        self.pipe.vae.to(self.device)
        # 3. Text, where its encoder is not trained
        self.captions: CaptionEmbeddings | None = None
        if not self.trains_text:
            self.pipe.text_encoder.to(self.device)
            self.captions = CaptionEmbeddings(self.pipe, captions, config.data.cache / "text")
            self.pipe.register_modules(text_encoder=None)  # makes room: UMT5-XXL has 11 GB
        self.attends_over: tuple[int, int] | None = None  # the grid that is set up
        self.graphs = self._graphs() if config.cuda_graphs else None
        if config.compile:
            for block in (*self.transformer.blocks, *getattr(self.transformer, "vace_blocks", ())):
                block.compile()

    def _graphs(self) -> TrainingGraphs:
        """Raises ValueError for runs that cannot have graphs."""
        reasons = {
            "they are for CUDA": self.device.type == "cuda",
            "they are for training text encoder and transformer, all of them": self.trains_text,
            "gradients of graphs cannot be accumulated": self.config.loop.accumulate == 1,
            "they are for one process": self.loop.accelerator.num_processes == 1,
        }
        for reason, is_met in reasons.items():
            if not is_met:
                raise ValueError(f"--cuda-graphs cannot be used: {reason}; leave it out.")
        return TrainingGraphs(self.transformer)

    def attend_over(self, num_views: int, num_frames: int) -> None:
        """Set the transformer up for a grid of latents; not anew for the same one, as new
        processors would be compiled anew."""
        if self.attends_over != (num_views, num_frames):
            self.attends_over = num_views, num_frames
            config = self.pipe.config
            apply_view_time(
                self.transformer,
                num_views,
                num_frames,
                max_frames=config.max_frames,
                architecture=config.architecture,
            )

    def predict(
        self, inputs: Tensor, timesteps: Tensor, captions: list[str], **shown: Tensor
    ) -> Tensor:
        """The velocity of the inputs; shown are more of a transformer's inputs."""
        if self.graphs is not None and isinstance(self.model, TextToGrid):
            return self.graphs(self.attends_over, inputs, timesteps, self.model.encode(captions))
        if self.captions is None:
            return self.loop.model(inputs, timesteps, captions)
        text = torch.cat([self.captions(caption) for caption in captions]).to(self.device)
        return self.loop.model(inputs, timesteps, text, return_dict=False, **shown)[0]

    def generate(self, caption: str, grid: int, seed: int, steps: int, **given: Any) -> Tensor:
        """Frames [V, T, 3, H, W] of a grid, by the model as it is; given are its references."""
        prompt: dict[str, Any] = {"prompt": caption}
        if self.captions is not None:
            prompt = {
                "prompt_embeds": self.captions(caption),
                "negative_prompt_embeds": self.captions(""),
            }
        self.attends_over = None  # the pipeline gives back the stock attention
        views, frames = self.grids[grid]
        return self.pipe(
            **prompt,
            num_views=views,
            num_frames=frames,
            height=self.config.data.height,
            width=self.config.data.width,
            num_inference_steps=steps,
            generator=torch.Generator().manual_seed(seed),
            **given,
        ).frames

    def save(self) -> None:
        """Write the averaged weights with what they say about themselves."""
        out, is_main = self.config.loop.out, self.loop.accelerator.is_main_process
        apply_view_time(self.transformer, None)
        with self.loop.averaged():
            self.start.mix_into(self.loop.plain_model)
            if self.config.tune == "lora":
                weights = {n: whole(p) for n, p in self.loop.trained()}
                if is_main:
                    save_lora(weights, out / f"{self.result}.safetensors", self.metadata())
                return
            state = self.transformer.state_dict()
            tensors = {k: whole(v.detach()).half().cpu() for k, v in state.items()}
            if not is_main:
                return
            path = out / f"{self.result}.safetensors"
            save_transformer(path, tensors, self.transformer.config, self.metadata())
            if self.trains_text:
                path = out / "text_encoder.safetensors"
                save_text_encoder(self.pipe.text_encoder, self.pipe.tokenizer, path)

    def metadata(self) -> dict[str, Any]:
        """What the weights say about themselves; the pipeline reads its settings from it."""
        config, grids = self.pipe.config, self.grids
        views, frames = grids[-1]
        return {
            "base": str(self.config.start_from or "none"),
            "tune": self.config.tune,
            "architecture": config.architecture,
            "conditioning": config.conditioning,
            "max_frames": config.max_frames,
            "max_tokens": self.pipe.max_tokens,
            "shift": self.pipe.scheduler.config.shift,
            "guidance_scale": config.guidance_scale,
            "grid": grids[-1],
            "staged": {(views, 1), (1, frames)} <= set(grids) and bool(self.config.grid_odds),
        }
