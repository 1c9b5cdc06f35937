"""Load Scene (4Real) in the real editor: the upload button, and a file dropped on the node."""

import pytest

from ..comfyui import needs_comfyui, prompt_of
from ..tiny import cloud
from .editor import editor_page

NODE = "app.graph.nodes.find((node) => node.type === 'FourReal_LoadScene')"
LIST = f"{NODE}.widgets.find((widget) => widget.name === 'scene_file')"
DROP = f"""([bytes, name]) => {{
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([new Uint8Array(bytes)], name));
  return {NODE}.onDragDrop({{ dataTransfer }});
}}"""


@pytest.fixture(params=["classic", "vue"])
def editor(request, browser, server, info):
    """A page with the node in it, drawn in one of the editor's two ways."""
    page = editor_page(browser, server, request.param == "vue", (1000, 700))
    page.set_default_timeout(240_000)
    page.goto(server.url)
    # Its own first workflow has been opened, and will not take the place of what comes now.
    page.wait_for_function("window.app?.extensionManager?.workflow?.activeWorkflow?.changeTracker")
    page.evaluate("app.graph.clear(); app.graph.add(LiteGraph.createNode('FourReal_LoadScene'))")
    page.style = request.param
    yield page
    page.close()


@needs_comfyui
def test_a_file_is_uploaded_chosen_and_loaded(editor, server, tmp_path):
    from fourreal.formats import save_ply

    name = f"{editor.style} one.ply"
    save_ply(cloud(20), tmp_path / name)
    with editor.expect_file_chooser() as chooser:
        editor.evaluate(f"{NODE}.widgets.find((widget) => widget.type === 'button').callback()")
    chooser.value.set_files(tmp_path / name)
    editor.wait_for_function(f"{LIST}.value === '{name}'")
    assert editor.evaluate(f"{LIST}.options.values")[0] == name
    dropped = f"{editor.style} two.ply"
    assert editor.evaluate(DROP, [list((tmp_path / name).read_bytes()), dropped])
    editor.wait_for_function(f"{LIST}.value === '{dropped}'")
    assert not editor.evaluate(DROP, [[1, 2], "notes.txt"])  # the editor's own
    queued = editor.evaluate(f"async () => (await app.graphToPrompt()).output[{NODE}.id].inputs")
    assert queued == {"scene_file": dropped}
    saved = editor.evaluate(f"{NODE}.serialize().widgets_values")
    assert saved == [dropped]
    keep = {"scene": ["load", 0], "filename_prefix": "up", "format": "ply"}
    graph = {"load": ("FourReal_LoadScene", queued), "keep": ("FourReal_SaveScene", keep)}
    assert len(server.run(prompt_of(graph))["keep"]["3d"]) == 1
