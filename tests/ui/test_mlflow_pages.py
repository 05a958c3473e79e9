"""What a person sees of a finished search in MLflow's pages, in a real browser."""

import re

import numpy as np
import pytest

pytestmark = [pytest.mark.ui, pytest.mark.ray]


@pytest.fixture(scope="session")
def page(browser, server):
    """`page("#/models")` opens a page of the server; the assistant that MLflow opens at the first visit is closed."""
    address, _ = server
    browser.open(address)
    browser.driver.execute_script(
        "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true');"
        "localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false');"
    )
    return lambda path: browser.open(f"{address}/{path}")


def expect_picture(pixels):
    """A page in which much is drawn: no blank one, nor a lone message."""
    assert pixels.std() > 10
    rows_with_content = (pixels.mean(axis=2).std(axis=1) > 2).mean()
    assert rows_with_content > 0.3


def colours(pixels):
    """Number of strong colours: those of curves."""
    coarse = (pixels // 32).astype(int).reshape(-1, 3)
    saturated = coarse[(coarse.max(axis=1) - coarse.min(axis=1)) >= 3]
    _, counts = np.unique(saturated, axis=0, return_counts=True)
    return int((counts > 20).sum())


def test_the_command_prints_where_the_trials_are_and_they_are_there_best_first(server, browser, page):
    _, printed = server
    (address,) = re.findall(r"quadrants: http://[^/]+/(\S+)", printed)

    page(address)

    text = browser.expect(
        "val/accuracy", "confirmed/accuracy", "root_index", "learning_rate", "4 matching runs"
    )
    assert len(re.findall(r"t000[0-3] root_index=[13] learning_rate=0\.0\d+", text)) == 4
    assert "Trials on quadrants, ranked by val/accuracy (max)" in text
    cells = browser.find(".ag-cell[col-id='metrics.`best/accuracy`']")
    values = [float(cell.text) for cell in sorted(cells, key=lambda cell: cell.location["y"])]
    assert len(values) == 4
    assert values == sorted(values, reverse=True)
    expect_picture(browser.shoot("trials"))


def test_parents_show_their_children(browser, page):
    page("#/experiments/1/runs?workflowType=machine_learning")

    browser.expect("quadrants (confirmation)")
    browser.unfold(r"quadrants \(confirmation\)")
    browser.unfold("quadrants")
    text = browser.expect("t0000 root_index=", "t0003 root_index=", "baseline_seed1")
    assert text.count("_seed1") == 2
    expect_picture(browser.shoot("parents_and_children"))


def test_trials_are_grouped_by_root_index(browser, page):
    page("#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=hep_ray-groups")

    browser.expect("Group by: root_index", "Group: 1", "Group: 3")
    expect_picture(browser.shoot("grouped_by_root_index"))


def test_confirmed_values_sort_and_seeds_are_averaged(browser, page):
    page("#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=hep_ray-confirmed")
    browser.expect("Sort: confirmed/accuracy", "1 matching run", "root_index=")
    expect_picture(browser.shoot("confirmed"))

    page("#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=hep_ray-contenders")
    browser.expect("Group: baseline", "baseline_seed1", "6 matching runs")
    expect_picture(browser.shoot("means_over_seeds"))


def test_learning_curves_are_drawn(browser, page):
    page(
        "#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=hep_ray-trials&compareRunsMode=CHART"
    )

    browser.expect("comparison (5)", "val/accuracy", "val/loss")
    browser.find(".js-plotly-plot .scatterlayer .trace path.js-line")
    pixels = browser.shoot("charts")
    expect_picture(pixels)
    assert colours(pixels) >= 4


def test_a_trial_has_its_charts_in_folders(browser, page):
    page("#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=hep_ray-trials")
    browser.expect("t0000 root_index=")
    page(browser.run_page("t0000 .*") + "/model-metrics")

    browser.expect("train (", "val (", "val/confusion (")
    browser.find(".js-plotly-plot .scatterlayer .trace path.js-line")
    expect_picture(browser.shoot("trial"))


def test_the_report_is_shown_among_the_files(browser, page):
    page("#/experiments/1/runs?workflowType=machine_learning")
    browser.expect("quadrants (confirmation)")
    page(browser.run_page("quadrants") + "/artifacts/report.html")

    browser.driver.switch_to.frame(browser.find("iframe")[0])
    browser.expect("quadrants", "Provenance")
    expect_picture(browser.shoot("report"))
    browser.driver.switch_to.default_content()


def test_the_champion_is_in_the_registry(browser, page):
    page("#/models/quadrants?workflowType=machine_learning")

    browser.expect("quadrants", "Version 1", "@ champion")
    expect_picture(browser.shoot("registered_model"))
