import json
import os
import re
import shutil
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from test_results import SETTING as PLAIN

from dllm_env.errors import UsageError
from dllm_env.eval.compare import comparisons, pool
from dllm_env.eval.report import (
    LONGEST,
    Texts,
    end_of_text,
    mean_order,
    pack,
    page_data,
    to_json,
    write_report,
)
from dllm_env.eval.results import Outcome, Result

SETTING = replace(PLAIN, task="sums", denoiser="toy", denoiser_version="0123", code_version="0.1.0+4567")
END = "<eot>"
NASTY = "</script><script>window.injected = 1</script><img src=x onerror='window.injected = 1'><!-- \u2028 {{js}}"


def setting(policy, **changes):
    return replace(SETTING, policy=policy, learned=policy.startswith("runs/"), **changes)


def outcome(played, index=0, correct=1.0, **changes):
    """Says "4 2" in three steps: the 2 and the first end-of-text, then the 4, then the last end-of-text."""
    made = Outcome(
        setting=played.key,
        policy=played.policy,
        block_length=played.block_length,
        seed=played.seed,
        index=index,
        sample=0,
        prompt=f"sum {index}",
        response="4 2",
        correct=correct,
        finished=True,
        nfe=3,
        steps=3,
        remasks=0,
        tokens=2,
        seconds=0.5,
        words=["4", "2", END, END],
        revealed_at=[1, 0, 0, 2],
        confidence=[0.5, 0.996, 1.0, 0.25],
    )
    return replace(made, **changes)


def result(policy, correct, changes=None, **settings):
    """One outcome for each score."""
    played = setting(policy, **settings)
    return Result(played, [outcome(played, i, float(score), **(changes or {})) for i, score in enumerate(correct)])


SHORT = {"words": ["5", "2", END, END], "revealed_at": [0, 0, 0, 0], "steps": 1, "nfe": 1, "response": "5 2"}


@pytest.fixture(scope="module")
def results():
    """Two conditions. NFE are chosen so that they sort otherwise as words; a learned policy has a nasty name."""
    made = []
    for block in (4, 2):
        made += [
            result("threshold:0.9", [1, 1, 0, 1, 0, 1], {"nfe": 9}, block_length=block),
            result("leftmost:1", [1, 1, 1, 1, 1, 1], {"nfe": 10}, block_length=block),
            result("runs/<b>mine</b>", [1, 0, 1, 1, 0.5, 1], SHORT, block_length=block, policy_version="89ab"),
            result("threshold:0.5", [0, 0, 0, 1, 0, 0], {"nfe": 2}, block_length=block),
        ]
    return [
        Result(found.setting, [replace(o, prompt=NASTY if o.index == 1 else o.prompt) for o in found.outcomes])
        for found in made
    ]


@pytest.fixture(scope="module")
def entries(results):
    return pool(results)


@pytest.fixture(scope="module")
def page(entries, tmp_path_factory):
    """The report as a file."""
    file = tmp_path_factory.mktemp("report") / "report.html"
    write_report(entries, comparisons(entries), file, "task sums & more, <b>{{data}}</b>")
    return file


# ------------------------------------------------------------------------------------------------ data


def test_pack_writes_runs_once():
    assert pack([4, 4, 4, -1, 0, 0]) == "4x3 -1 0x2"
    assert pack([]) == ""


def test_texts_are_numbered_once():
    texts = Texts()
    assert [texts.number(text) for text in ("a", "b", "a", "")] == [0, 1, 0, 2]
    assert texts.all == ["a", "b", ""]


def test_end_of_text_comes_after_the_tokens_that_count():
    assert end_of_text(outcome(SETTING)) == 2
    cut_off = outcome(SETTING, revealed_at=[1, -1, 0, 0], tokens=1, words=["4", "", END, END])
    assert end_of_text(cut_off) == 2
    assert end_of_text(outcome(SETTING, tokens=4, words=list("4242"))) == 4
    assert end_of_text(outcome(SETTING, tokens=0, revealed_at=[-1, -1, -1, -1])) == 4


def test_mean_order_by_hand():
    first = outcome(SETTING, steps=3, revealed_at=[1, 0, 2, -1])
    second = outcome(SETTING, steps=5, revealed_at=[4, 1, -1, -1])
    assert mean_order([first, second]) == [0.75, 0.125, 1.0, None]
    assert mean_order([outcome(SETTING, steps=1, revealed_at=[0, 0, 0, 0])]) == [0.0] * 4


def test_conditions_have_points_and_fronts(entries):
    data = page_data(entries, [])
    assert [condition["title"] for condition in data["conditions"]] == ["block length 4", "block length 2"]
    condition = data["conditions"][0]
    assert [(point["nfe"], point["accuracy"]) for point in condition["entries"]] == [
        (9, pytest.approx(4 / 6)),
        (10, 1),
        (1, pytest.approx(4.5 / 6)),
        (2, pytest.approx(1 / 6)),
    ]
    assert condition["fronts"] == {"heuristic": [3, 0, 1], "learned": [2], "oracle": [], "search": []}
    assert condition["opening"] == [2, 1], (
        "no heuristic is as fast as the learned policy; the best one is its rival"
    )
    assert data["nfe"] == [1, 10]
    assert data["families"] == {
        "threshold": {"colour": "#0072B2", "symbol": "circle"},
        "leftmost": {"colour": "#CC79A7", "symbol": "diamond"},
        "learned policies": {"colour": "#D55E00", "symbol": "star"},
    }
    about = condition["entries"][0]["about"]
    assert about[0] == "threshold:0.9"
    assert any(line.endswith("= 0.9") for line in about)
    assert "NFE 9.0 on average, 9 at the 90th percentile" in about
    assert condition["order"][0] == [0.5, 0.0, 0.0, 1.0]


def test_the_viewer_has_what_was_played(entries):
    data = page_data(entries, [])
    problem = data["conditions"][0]["problems"][0]
    texts = data["texts"]
    assert (problem["name"], texts[problem["prompt"]]) == ("problem 0", "sum 0")
    correct, nfe, steps, finished, end, response, words, revealed, confidence = problem["answers"][0]
    assert (correct, nfe, steps, finished, end, texts[response]) == (1.0, 9, 3, True, 2, "4 2")
    four, two, ended = (texts.index(word) for word in ("4", "2", END))
    assert words == f"{four} {two} {ended}x2"
    assert revealed == "1 0x2 2"
    assert confidence == "50 100x2 25"
    assert len(problem["answers"]) == 4


def test_the_viewer_shows_the_first_common_problems_of_all_entries():
    many, few = setting("threshold:0.9"), setting("top_k:1")
    made = [
        Result(many, [outcome(many, i, 0.0) for i in range(6)]),
        Result(few, [outcome(few, i, 1.0, sample=sample) for i in (5, 1, 2) for sample in (0, 1)]),
    ]
    data = page_data(pool(made), [], viewer_problems=2)
    condition = data["conditions"][0]
    assert [problem["name"] for problem in condition["problems"]] == ["problem 1", "problem 2"]
    assert (condition["common"], condition["samples"]) == (3, True)


def test_of_several_samples_the_first_is_shown():
    played = setting("threshold:0.9")
    samples = [outcome(played, 0, float(sample == 0), sample=sample) for sample in (2, 0, 1)]
    condition = page_data(pool([Result(played, samples)]), [])["conditions"][0]
    assert len(condition["problems"]) == 1
    assert condition["problems"][0]["answers"][0][0] == 1.0


def test_entries_without_a_common_problem_are_shown_with_gaps():
    one, other = setting("threshold:0.9"), setting("top_k:1")
    made = [Result(one, [outcome(one, 0)]), Result(other, [outcome(other, 1)])]
    condition = page_data(pool(made), [])["conditions"][0]
    assert condition["common"] == 0
    assert [[answer is None for answer in problem["answers"]] for problem in condition["problems"]] == [
        [False, True],
        [True, False],
    ]


def cells(table, column):
    at = [found["name"] for found in table["columns"]].index(column)
    return [line["cells"][at] for line in table["lines"]]


def test_tables_show_and_sort_all_figures(entries):
    pairs = comparisons(entries)
    tables = page_data(entries, pairs)["tables"]
    assert cells(tables["figures"], "NFE")[:4] == [("9.0", 9), ("10.0", 10), ("1.0", 1), ("2.0", 2)]
    assert cells(tables["figures"], "accuracy")[1] == ("100.0%", 1)
    assert cells(tables["figures"], "condition")[3:5] == [("block length 4", 0), ("block length 2", 1)]
    assert [line["bold"] for line in tables["figures"]["lines"]][:4] == [False, False, True, False]
    names = [column["name"] for column in tables["figures"]["columns"]]
    assert "remasked" not in names
    assert not any(name.startswith("pass@") for name in names)
    assert [pair[0] for pair in cells(tables["pairs"], "against")] == [pair.second for pair in pairs]
    assert cells(tables["pairs"], "accuracy")[0] == ("−25.0 points", pytest.approx(-0.25))
    assert {front[0] for front in cells(tables["areas"], "front of")} >= {"heuristics", "learned", "all"}


def test_tables_of_samples_and_remasks():
    played, other = setting("random:1", allow_remask=True), setting("random:2", allow_remask=True)
    samples = [outcome(played, i, float(k == 0), sample=k, remasks=3) for i in range(2) for k in range(2)]
    data = page_data(pool([Result(played, samples), Result(other, [outcome(other)])]), [])
    table = data["tables"]["figures"]
    assert cells(table, "pass@2") == [("100.0%", 1.0), ("–", None)]
    assert cells(table, "remasked") == [("3.0", 3), ("0.0", 0)]
    assert data["conditions"][0]["remask"]


# ------------------------------------------------------------------------------------------------ page


def of_two_tasks(learned=(1, 1, 0, 1)):
    """Random, a rule, a policy and the oracle on two tasks."""
    played = {"random:1": ([0, 0, 0, 1], 4), "top_k:1": ([0, 1, 0, 1], 3), "runs/x:alpha=1": (learned, 2)}
    played["oracle"] = ([1, 1, 1, 1], 1)
    return [
        result(who, right, {"nfe": nfe}, task=task)
        for task in ("trace", "sudoku")
        for who, (right, nfe) in played.items()
    ]


def test_scores_over_conditions():
    table = page_data(pool(of_two_tasks()), [])["tables"]["scores"]
    assert [column["name"] for column in table["columns"]][1:4] == ["trace", "sudoku", "mean"]
    mean = dict(zip((who for who, _ in cells(table, "front of")), cells(table, "mean"), strict=True))
    assert mean["oracle"] == ("1.000", 1.0)
    assert mean["random"] == ("0.000", 0.0)
    assert 0 < mean["top_k"][1] < mean["runs/x"][1] < 1
    assert {line["cells"][0][0] for line in table["lines"] if line["bold"]} == {"learned", "runs/x"}


def test_of_one_condition_there_are_no_scores_over_several(entries):
    assert page_data(entries, [])["tables"]["scores"]["lines"] == []


def test_of_a_long_response_the_page_has_the_beginning():
    played = setting("threshold:0.9")
    long = outcome(played, response="x" * 20_000_000, words=["y" * 5_000_000] * 4, prompt="z" * 1_000_000)
    data = page_data(pool([Result(played, [long])]), [])
    assert len(to_json(data)) < 100_000
    assert "x" * LONGEST + " … [cut here: 19,980,000 more characters are not in this report]" in data["texts"]
    many = outcome(played, words=["w" * 30] * 100_000, revealed_at=[0] * 100_000, confidence=[0.5] * 100_000)
    assert len(to_json(page_data(pool([Result(played, [many])]), []))) < 100_000


def test_json_cannot_leave_its_script():
    data = {"text": NASTY + "\u2029 \ud800"}
    text = to_json(data)
    assert "<" not in text
    assert text.isascii()
    assert json.loads(text) == data


class Elements(HTMLParser):
    """Collects elements, and the text of scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.found, self.texts, self.inside = [], {"script": [], "style": []}, None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag in self.texts:
            self.texts[tag].append("")
            self.inside = tag

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside:
            self.texts[self.inside][-1] += data


def test_the_page_loads_nothing(page):
    elements = Elements(page.read_text(encoding="utf-8"))
    assert not [found for found in elements.found if "src" in found[1]]
    links = [found["href"] for _, found in elements.found if "href" in found]
    assert all(re.match("#|data:,$", link) for link in links), links
    drawing, data, ours = elements.texts["script"]
    assert "plotly.js" in drawing[:100]
    for text in (ours, *elements.texts["style"]):
        assert not re.search(r"@import|url\(|https?:(?!//www\.w3\.org/2000/svg)|fetch\(|innerHTML|eval\(", text)
    assert json.loads(data)["conditions"][0]["title"] == "block length 4"
    policy = next(found["content"] for _, found in elements.found if "http-equiv" in found)
    assert policy.startswith("default-src 'none'")


def test_texts_stay_text(page):
    text = page.read_text(encoding="utf-8")
    assert "window.injected" in text
    assert "<script>window.injected" not in text
    assert "task sums &amp; more, &lt;b&gt;{{data}}&lt;/b&gt;" in text


def test_same_input_same_page(entries, page, tmp_path):
    write_report(entries, comparisons(entries), tmp_path / "again.html", "task sums & more, <b>{{data}}</b>")
    assert page.read_bytes() == (tmp_path / "again.html").read_bytes()


def test_without_plotly_says_what_to_install(entries, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(UsageError, match=r"pip install 'dllm-env\[report\]'"):
        write_report(entries, [], tmp_path / "report.html", "")
    assert not (tmp_path / "report.html").exists()


# --------------------------------------------------------------------------------------------- browser

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'dllm-env[dev]'")
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip("needs Chromium: install it, or name its program in CHROMIUM")
    # Chromium's sandbox refuses to run as root, as which containers often run their tests.
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    with playwright.sync_playwright() as started:
        made = started.chromium.launch(executable_path=program, args=["--no-sandbox"] if root else [])
        yield made
        made.close()


@pytest.fixture
def visit(browser):
    """Opens a page by its file; in the end nothing may have been complained about, nor loaded."""
    contexts, complaints, loaded = [], [], []

    def open_page(file, width=1280, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        contexts.append(context)
        shown = context.new_page()
        shown.set_default_timeout(20_000)
        shown.on("console", lambda message: complaints.append(message.text))
        shown.on("pageerror", lambda error: complaints.append(str(error)))
        shown.on("request", lambda request: loaded.append(request.url))
        shown.goto(file.as_uri())
        shown.wait_for_selector("#order-plot .main-svg")
        return shown

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
    assert [url for url in loaded if not url.startswith(("file:", "data:", "blob:"))] == []
    assert sum(url.startswith("file:") for url in loaded) == len(contexts)


def tokens(shown, pane):
    return shown.locator(".pane").nth(pane).locator("li").all_text_contents()


def column(shown, table, name):
    """What a table's column shows, lines that are hidden left out."""
    heads = [text.strip() for text in shown.locator(f"{table} thead th").all_text_contents()]
    lines = shown.locator(f"{table} tbody tr:not([hidden])").all()
    return [line.locator("th, td").nth(heads.index(name)).text_content() for line in lines]


def traces(shown):
    """Which traces of the front can be seen, by name."""
    return shown.evaluate(
        "Object.fromEntries(document.getElementById('fronts-plot').data.map((t) => [t.name, t.visible]))"
    )


def test_it_opens_with_everything(visit, page):
    shown = visit(page)
    assert shown.title() == "Unmasking policies: task sums & more, <b>{{data}}</b>"
    facts = shown.locator("#facts").inner_text()
    for said in ("sums", "toy (0123)", "runs/<b>mine</b> (89ab)", "dllm-env 0.1.0+4567"):
        assert said in facts
    assert shown.locator("#fronts-plot .main-svg").first.is_visible()
    assert not any(
        "hare" in (button or "")
        for button in shown.locator(".modebar-btn").evaluate_all(
            "(all) => all.map((button) => button.dataset.title)"
        )
    )
    shown.evaluate("Plotly.Fx.hover('fronts-plot', [{curveNumber: 6, pointNumber: 0}])")
    assert "runs/<b>mine</b>" in shown.locator("#fronts-plot .hovertext").inner_html().replace("&lt;", "<").replace(
        "&gt;", ">"
    )
    assert shown.evaluate("window.injected") is None
    assert shown.locator("#viewer-remask").is_hidden()
    answers = shown.locator("#answers p").all_text_contents()
    assert [text.split(" The ")[0] for text in answers] == ["block length 4", "block length 2"]
    assert "gets 75.0% with 1.0 evaluations" in answers[0]
    assert shown.locator("#latency").is_hidden()


def test_conditions_and_families_can_be_chosen(visit, page):
    shown = visit(page)
    tabs = shown.locator("#fronts-tabs [role=tab]")
    assert tabs.all_text_contents() == ["block length 4", "block length 2"]
    tabs.first.focus()
    shown.keyboard.press("ArrowRight")
    assert tabs.nth(1).get_attribute("aria-selected") == "true"
    assert tabs.nth(1).evaluate("(tab) => tab === document.activeElement")
    assert traces(shown)["threshold"] is True
    shown.locator("#families label", has_text="threshold").click()
    assert traces(shown)["threshold"] is False
    shown.locator("#families label", has_text="Pareto front, learned").click()
    assert traces(shown)["Pareto front, learned"] is False
    assert traces(shown)["Pareto front, heuristics"] is True


def test_the_front_has_plain_ticks_when_zoomed_too(visit, page):
    shown = visit(page)
    ticks = shown.locator("#fronts-plot .xtick text")
    assert ticks.all_text_contents() == ["1", "2", "3", "4", "5", "6", "8", "10"]
    shown.evaluate("Plotly.relayout('fronts-plot', {'xaxis.range': [Math.log10(4.1), Math.log10(4.9)]})")
    shown.wait_for_timeout(100)
    assert len(ticks.all_text_contents()) > 2
    assert all(4 < float(text) < 5 for text in ticks.all_text_contents())
    shown.locator("#fronts-plot .modebar-btn[data-val=reset]").dispatch_event("click")
    shown.wait_for_timeout(100)
    assert ticks.all_text_contents() == ["1", "2", "3", "4", "5", "6", "8", "10"]


def test_tables_sort_by_click_and_key(visit, page):
    shown = visit(page)
    button = shown.locator("#figures-table thead button", has_text=re.compile("^NFE$"))
    head = button.locator("xpath=..")
    before = column(shown, "#figures-table", "NFE")
    button.click()
    assert column(shown, "#figures-table", "NFE") == ["1.0", "1.0", "2.0", "2.0", "9.0", "9.0", "10.0", "10.0"]
    assert head.get_attribute("aria-sort") == "ascending"
    button.focus()
    shown.keyboard.press("Enter")
    assert column(shown, "#figures-table", "NFE") == ["10.0", "10.0", "9.0", "9.0", "2.0", "2.0", "1.0", "1.0"]
    assert head.get_attribute("aria-sort") == "descending"
    assert before != column(shown, "#figures-table", "NFE")
    shown.locator("#figures-table thead button", has_text="policy").click()
    assert column(shown, "#figures-table", "policy") == sorted(column(shown, "#figures-table", "policy"))
    assert head.get_attribute("aria-sort") is None
    weight = shown.locator("#figures-table tr", has_text="mine").first.locator("td").first
    assert weight.evaluate("(cell) => getComputedStyle(cell).fontWeight") == "700"


def test_the_filter_keeps_lines_with_all_words(visit, page):
    shown = visit(page)
    shown.fill("#figures-filter", "THRESHOLD 16.7%")
    assert column(shown, "#figures-table", "policy") == ["threshold:0.5", "threshold:0.5"]
    assert shown.locator("#figures-count").text_content() == "2 of 8 lines"
    shown.fill("#figures-filter", "")
    assert len(column(shown, "#figures-table", "policy")) == 8


def wait_for(element, text):
    from playwright.sync_api import expect

    expect(element).to_have_text(text)


def choose(shown, left="threshold:0.9", right="runs/<b>mine</b> (learned)", problem="0"):
    shown.select_option("#viewer-first", label=left)
    shown.select_option("#viewer-second", label=right)
    shown.select_option("#viewer-problem", problem)


def test_the_viewer_steps_by_buttons_and_keys(visit, page):
    shown = visit(page)
    choose(shown)
    said = shown.locator("#step-said")
    assert tokens(shown, 0) == ["4", "2", "∎", "∎"], "it opens with the whole response"
    shown.click("#step-first")
    assert tokens(shown, 0) == tokens(shown, 1) == ["mask"] * 4
    assert said.text_content() == "start, of 3 steps"
    shown.click("#step-on")
    assert tokens(shown, 0) == ["mask", "2", "∎", "mask"]
    assert tokens(shown, 1) == ["5", "2", "∎", "∎"]
    shown.focus("#stage")
    shown.keyboard.press("ArrowRight")
    assert tokens(shown, 0) == ["4", "2", "∎", "mask"]
    assert tokens(shown, 1) == ["5", "2", "∎", "∎"], "the shorter one stays complete"
    shown.keyboard.press("ArrowLeft")
    assert tokens(shown, 0) == ["mask", "2", "∎", "mask"]
    shown.focus("#step")
    shown.keyboard.press("ArrowRight")
    assert said.text_content() == "step 2 of 3"
    shown.click("#step-last")
    assert tokens(shown, 0) == ["4", "2", "∎", "∎"]
    assert shown.locator("#step-on").is_disabled()
    shown.locator(".pane li").first.hover()
    assert "position 1: “4”, written in step 2 with confidence 0.50" in shown.locator("#token-said").inner_text()


def test_tokens_are_coloured_by_step_and_barred_by_confidence(visit, page):
    shown = visit(page)
    choose(shown)
    styles = (
        shown.locator(".pane")
        .first.locator("li")
        .evaluate_all(
            "(all) => all.map(({style}) => ['--step', '--confidence'].map((name) => style.getPropertyValue(name)))"
        )
    )
    assert styles == [["#21918c", "50%"], ["#440154", "100%"], ["#440154", "100%"], ["#fde725", "25%"]]
    classes = shown.locator(".pane").first.locator("li").evaluate_all("(all) => all.map((one) => one.className)")
    assert ["end" in name for name in classes] == [False, False, True, True]


def test_the_viewer_plays_to_the_end_and_pauses(visit, page):
    shown = visit(page)
    choose(shown)
    said, button = shown.locator("#step-said"), shown.locator("#step-play")
    shown.select_option("#step-speed", "16")
    button.click()
    assert button.text_content() == "Pause"
    wait_for(said, "step 3 of 3")
    assert button.text_content() == "Play"
    shown.select_option("#step-speed", "1")
    shown.focus("#stage")
    shown.keyboard.press("Space")
    assert button.text_content() == "Pause"
    shown.keyboard.press("Space")
    assert button.text_content() == "Play"
    assert said.text_content() == "start, of 3 steps"
    shown.select_option("#step-speed", "16")
    shown.focus("#stage")
    shown.keyboard.press("Space")
    wait_for(said, "step 3 of 3")


def test_the_viewer_says_right_and_wrong_and_changes(visit, page):
    shown = visit(page)
    choose(shown)
    outcomes = shown.locator(".outcome")
    assert outcomes.all_text_contents() == ["✓ right · 9 NFE in 3 steps", "✓ right · 1 NFE in 1 step"]
    shown.click("#problem-next")
    assert shown.locator("#viewer-prompt").text_content() == NASTY
    assert outcomes.nth(1).text_content().startswith("✗ wrong")
    shown.select_option("#viewer-problem", "4")
    assert outcomes.all_text_contents() == ["✗ wrong · 9 NFE in 3 steps", "◐ partly right (0.50) · 1 NFE in 1 step"]
    shown.click("#problem-back")
    assert shown.locator("#viewer-prompt").text_content() == "sum 3"
    shown.select_option("#viewer-first", label="leftmost:1")
    assert outcomes.first.text_content() == "✓ right · 10 NFE in 3 steps"
    shown.select_option("#viewer-condition", label="block length 2")
    assert shown.locator("#viewer-prompt").text_content() == "sum 0"
    assert "Here: 6 of 6 problems" in shown.locator("#viewer-shown").inner_text()


def test_only_problems_that_differ(visit, page):
    shown = visit(page)
    choose(shown)
    shown.check("#viewer-differ")
    problems = shown.locator("#viewer-problem option")
    assert [option.get_attribute("value") for option in problems.all()] == ["1", "2", "4"]
    assert shown.locator("#viewer-prompt").text_content() == NASTY
    shown.select_option("#viewer-second", label="threshold:0.9")
    assert shown.locator("#stage").is_hidden()
    assert shown.locator("#viewer-none").is_visible()
    shown.uncheck("#viewer-differ")
    assert problems.count() == 6
    assert shown.locator("#stage").is_visible()


def test_a_narrow_page_fits_and_keys_reach_everything(visit, page):
    shown = visit(page, width=400)
    assert shown.evaluate("document.documentElement.scrollWidth") <= 400
    first, second = (shown.locator(".pane").nth(i).bounding_box() for i in (0, 1))
    assert second["y"] >= first["y"] + first["height"], "the panes are stacked"
    reached = set()
    for _ in range(120):
        shown.keyboard.press("Tab")
        reached.add(shown.evaluate("document.activeElement.id"))
    wanted = "figures-filter figures-table viewer-condition viewer-problem problem-next viewer-differ stage"
    wanted += (
        " step-first step-back step-play step step-speed viewer-first viewer-second fronts-tabs-0 order-tabs-0"
    )
    assert set(wanted.split()) <= reached
    ring = shown.locator("#figures-filter")
    ring.focus()
    assert ring.evaluate("(one) => getComputedStyle(one).outlineStyle") == "solid"


def test_dark_and_light(visit, page):
    shown = visit(page, scheme="dark")

    def colours():
        plot = shown.evaluate("document.getElementById('fronts-plot').layout.font.color")
        return shown.evaluate("getComputedStyle(document.body).backgroundColor"), plot

    assert colours() == ("rgb(20, 23, 28)", "#e8ebef")
    shown.emulate_media(color_scheme="light")
    from playwright.sync_api import expect

    expect(shown.locator("#fronts-plot .xtick text").first).to_have_css("fill", "rgb(27, 31, 36)")
    assert colours() == ("rgb(255, 255, 255)", "#1b1f24")


def test_a_page_of_one_row(visit, tmp_path):
    played = setting("wino:0.5", allow_remask=True)
    cut = outcome(
        played, words=["4", "", END, ""], revealed_at=[0, -1, 0, -1], tokens=1, steps=1, nfe=1, finished=False
    )
    write_report(pool([Result(played, [cut])]), [], tmp_path / "one.html", "one")
    shown = visit(tmp_path / "one.html", width=400)
    assert shown.evaluate("document.documentElement.scrollWidth") <= 400
    assert tokens(shown, 0) == ["4", "mask", "∎", "mask"]
    assert "cut off" in shown.locator(".outcome").first.text_content()
    assert shown.locator(".pane").nth(1).is_hidden()
    assert shown.locator("#viewer-remask").is_visible()
    assert shown.locator("#pairs-none").is_visible()
    assert shown.locator("#pairs-table").is_hidden()


def test_a_page_of_several_tasks_has_their_scores(visit, tmp_path, page):
    write_report(pool(of_two_tasks()), [], tmp_path / "two.html", "two")
    shown = visit(tmp_path / "two.html", width=400)
    assert shown.evaluate("document.documentElement.scrollWidth") <= 400
    assert shown.locator("#scores-table tbody tr").count() == 6
    assert visit(page).locator("#scores-part").is_hidden()


def test_a_page_of_many_entries(visit, tmp_path):
    """Twelve conditions of which the first has forty entries, long responses, and NFE that are all equal."""
    length, made = 256, []
    long = {"words": ["word"] * 200 + [END] * 56, "revealed_at": list(range(256)), "steps": 256, "nfe": 256}
    long |= {"confidence": [0.5] * length, "tokens": 200}
    for limit in range(1, 13):
        for k in range(29 if limit == 1 else 1):
            made.append(result(f"top_k:{k + 1}", [1, 0], long, max_steps=limit, response_length=length))
    made += [result(f"runs/{'long' * 9}/{k}", [1, 1], long, max_steps=1, response_length=length) for k in range(11)]
    entries = pool(made)
    write_report(entries, comparisons(entries), tmp_path / "many.html", "many")
    shown = visit(tmp_path / "many.html", width=400)
    assert shown.evaluate("document.documentElement.scrollWidth") <= 400
    assert shown.locator("#fronts-tabs [role=tab]").count() == 12
    assert shown.locator("#order-plot .ytick text").count() == 40
    assert len(tokens(shown, 0)) == length


def test_a_page_of_problems_that_only_one_was_given(visit, tmp_path):
    one, other = setting("threshold:0.9"), setting("top_k:1")
    entries = pool([Result(one, [outcome(one, 0)]), Result(other, [outcome(other, 1, 0.0)])])
    write_report(entries, [], tmp_path / "apart.html", "apart")
    shown = visit(tmp_path / "apart.html")
    assert shown.locator(".outcome").all_text_contents() == [
        "✓ right · 3 NFE in 3 steps",
        "– this policy was not given this problem ",
    ]
    assert tokens(shown, 1) == []
    assert shown.locator("#areas-none").is_visible()
    assert "none of which was given to all" in shown.locator("#viewer-shown").inner_text()
