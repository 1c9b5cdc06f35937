"""folder_paths, under a folder of its own."""

from functools import partial
from pathlib import Path


class Folders:
    """The functions of folder_paths as methods."""

    supported_pt_extensions = frozenset([".safetensors"])

    def __init__(self, base: Path):
        self.models_dir, self.folder_names_and_paths = str(base / "models"), {}
        for name in ("input", "output", "temp"):
            (base / name).mkdir(parents=True, exist_ok=True)
            setattr(self, f"get_{name}_directory", partial(str, base / name))

    def get_filename_list(self, folder_name):
        (folder,), suffixes = self.folder_names_and_paths.get(folder_name, ([self.models_dir], ()))
        return sorted(p.name for p in Path(folder).glob("*") if p.suffix in suffixes)

    def get_full_path(self, folder_name, filename):
        path = Path(self.folder_names_and_paths[folder_name][0][0]) / filename
        return str(path) if path.is_file() else None

    def get_full_path_or_raise(self, folder_name, filename):
        return self.get_full_path(folder_name, filename)

    def get_annotated_filepath(self, name):
        output = name.endswith(" [output]")
        folder = self.get_output_directory() if output else self.get_input_directory()
        return str(Path(folder) / name.removesuffix(" [output]"))

    def get_save_image_path(self, filename_prefix, output_dir):
        target = Path(output_dir) / filename_prefix
        target.parent.mkdir(parents=True, exist_ok=True)
        count = len(list(target.parent.glob(f"{target.name}_*"))) + 1
        return str(target.parent), target.name, count, "", filename_prefix
