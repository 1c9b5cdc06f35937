// Screenshots and recordings of the canvas, as downloads.

export async function screenshot(canvas, time) {
  download(await new Promise((resolve) => canvas.toBlob(resolve)), time, "png");
}

// Records the canvas as WebM; `onChange(recording)` is called when it begins and ends.
export class Recorder {
  constructor(canvas, onChange) {
    Object.assign(this, { canvas, onChange, recorder: null });
  }

  // `time()` gives the time that the file is named after, when it is ready.
  start(time) {
    if (this.recorder) return;
    const chunks = [];
    this.recorder = new MediaRecorder(this.canvas.captureStream(30), { mimeType: "video/webm" });
    this.recorder.ondataavailable = (event) => chunks.push(event.data);
    this.recorder.onstop = () => {
      this.recorder = null;
      this.onChange(false);
      download(new Blob(chunks, { type: "video/webm" }), time(), "webm");
    };
    this.recorder.start();
    this.onChange(true);
  }

  stop() {
    this.recorder?.stop();
  }
}

function download(blob, time, suffix) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `4real_${String(time + 1).padStart(4, "0")}.${suffix}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
