// The keys of the page, and those that are of the page around it.
import { $ } from "./page.js";

const BUTTONS = {
  " ": "play", ",": "back", ".": "next", 0: "home", k: "key", delete: "unkey", backspace: "unkey",
  h: "highlight", f: "full", p: "screenshot",
}; // prettier-ignore

export function connectKeys(viewer) {
  addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && event.key === "Enter") return passOn(event);
    const typing = event.target.matches("input:not([type=range], [type=checkbox]), select");
    if (event.ctrlKey || event.metaKey || event.altKey || typing) return;
    const key = event.key.toLowerCase();
    if (viewer.camera.key(key, true)) viewer.takeCamera();
    else if (key in BUTTONS) $(BUTTONS[key]).click();
    else if (key >= "1" && key <= "9") viewer.snap(Number(key) - 1);
    else return;
    event.preventDefault();
  });
  addEventListener("keyup", (event) => viewer.camera.key(event.key.toLowerCase(), false));
  addEventListener("blur", () => viewer.camera.keys.clear());
}

// Ctrl+Enter queues the workflow in ComfyUI, whose page this one is a frame in.
function passOn(event) {
  let around;
  try {
    around = parent !== window && parent.document;
  } catch {
    return; // a page of another origin
  }
  if (!around) return;
  const { key, code, ctrlKey, metaKey, shiftKey, altKey } = event;
  const again = { key, code, ctrlKey, metaKey, shiftKey, altKey, bubbles: true, cancelable: true };
  around.body.dispatchEvent(new parent.KeyboardEvent("keydown", again));
  event.preventDefault();
}
