"""Templates as a user meets them: in the template browser, opened, and run, in both renderers.

COMFYUI_FRONTEND names another frontend than the one that ComfyUI's checkout wants: the folder
`static` of the package comfyui-frontend-package.
"""

import json

import pytest

from .. import screenshots
from ..comfyui import SMALLER, WORKFLOWS, needs_comfyui
from ..templates import RED, RESEED, Layout, TemplateEditor, saved_layout
from .editor import LOWER

RENDERERS = pytest.mark.parametrize("vue_nodes", [False, True], ids=["classic", "vue"])
TITLES = "[data-testid^=template-workflow-]"


def test_a_layout_says_what_touches_and_what_is_outside():
    groups = {"left": [0, 0, 300, 300], "right": [310, 0, 300, 300]}
    nodes = {"a": [20, 50, 100, 100], "b": [20, 150, 100, 100], "c": [330, 50, 200, 100]}
    assert Layout(nodes, groups).faults() == []
    assert Layout(nodes | {"b": [20, 140, 100, 100]}, groups).faults() == ["a and b overlap"]
    for outside in ([250, 50, 100, 100], [20, 10, 30, 30], [20, 250, 100, 60], [900, 50, 10, 10]):
        assert Layout({"n": outside}, groups).faults() == ["n is not inside a group"]
    assert Layout({}, groups | {"right": [290, 0, 300, 300]}).faults() == ["left and right overlap"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_the_file_of_a_template_has_a_sound_layout(path):
    assert saved_layout(json.loads(path.read_text(encoding="utf-8"))).faults() == []


@needs_comfyui
def test_the_template_browser_shows_titles_and_pictures(browser, server, info):
    """The title is the file's name: of packs, frontends 1.45 to 1.58 know nothing else."""
    editor = TemplateEditor(browser, server, False)
    page = editor.page
    page.evaluate("app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    page.get_by_text("4Real", exact=True).first.click()
    for path in WORKFLOWS:
        card = page.locator(f'[data-testid="template-workflow-{path.stem}"]')
        card.scroll_into_view_if_needed()
        assert path.stem in card.inner_text().splitlines()
        page.wait_for_function(
            "(image) => image.complete && image.naturalWidth > 0",
            arg=card.locator("img").first.element_handle(),
        )
    screenshots.keep(page, "template_browser")
    card.click()
    page.wait_for_function("app.graph.nodes.length > 0")
    page.close()


@needs_comfyui
@pytest.mark.slow
@RENDERERS
@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_template_opens_without_errors_and_nothing_overlaps_after_a_run(
    browser, server, info, path, vue_nodes
):
    editor = TemplateEditor(browser, server, vue_nodes)
    assert editor.open(path.stem).faults() == []
    assert editor.page.evaluate(RED) == []
    editor.page.evaluate(LOWER, SMALLER)
    if vue_nodes:
        editor.page.evaluate(RESEED)  # or all would come from the cache, without live pictures
    layout, _ = editor.run()
    editor.keep(path.stem)
    assert layout.faults() == []
    assert editor.page.evaluate(RED) == [] and editor.errors == []
    editor.page.close()
