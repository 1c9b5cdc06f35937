"""Help pages and the English locale are what the nodes' schemas and docstrings say."""

from ..comfyui import ROOT
from .make_help import LOCALE, PAGES, help_files, unwrapped


def test_the_committed_help_is_what_the_command_would_write(nodes):
    made = help_files(nodes.NODES)
    there = {path.relative_to(ROOT) for path in (ROOT / PAGES).glob("*")} | {LOCALE}
    assert there == made.keys()
    old = [p.name for p, text in made.items() if (ROOT / p).read_text(encoding="utf-8") != text]
    assert not old, "run python tests/nodes/make_help.py"


def test_every_node_and_every_socket_is_explained(nodes):
    for node in nodes.NODES:
        schema = node.GET_SCHEMA()
        assert schema.description and node.__doc__ and schema.search_aliases, schema.node_id
        assert all(s.tooltip for s in (*schema.inputs, *schema.outputs)), schema.node_id
        assert schema.category.partition("/")[0] == "4Real"


def test_a_docstring_becomes_paragraphs_and_list_items_of_one_line():
    text = """First
    paragraph.

    - one
      and more
    - two
    """
    assert unwrapped(text) == "First paragraph.\n\n- one and more\n- two"
