"""A job small enough for a test: its options, and the files that it leaves."""

SMALL = [
    *("--num-views", "2", "--num-frames", "5", "--height", "32", "--width", "32"),
    *("--num-inference-steps", "2", "--orbit-size", "32"),
]
FILES = {
    "grid.mp4",
    "fixed_view.mp4",
    "freeze_time.mp4",
    "orbit.mp4",
    "scene",
    "scene.safetensors",
    "contact_sheet.png",
    "report.json",
}
