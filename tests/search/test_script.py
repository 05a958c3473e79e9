from hep_ray.errors import UnknownName
from hep_ray.search.find import load_search
from tests.facts import raises


def test_away_from_the_checkout_its_searches_are_known(tmp_path, monkeypatch):
    """As on the head of a cluster, where `ray exec` types commands in the home folder."""
    monkeypatch.chdir(tmp_path)

    assert load_search("cnn_loss").name == "cnn_loss"
    with raises(UnknownName, "nothing.py", "cnn_loss"):
        load_search("nothing")


def test_a_script_of_this_folder_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "searches").mkdir()
    (tmp_path / "searches/cnn_loss.py").write_text("search = 'none'\n")

    with raises(UnknownName, "'search'", "searches/cnn_loss.py"):
        load_search("cnn_loss")
    with raises(UnknownName, "searches/nothing.py", "cnn_loss"):
        load_search("nothing")
