"""The page in Chromium: what a person sees and does."""

from __future__ import annotations

import pytest
import torch

from throughtime.page import Inspector, sources, write_page

pytest.importorskip("selenium")
from selenium.webdriver import ActionChains
from selenium.webdriver.common.keys import Keys

TEXT = 'a fox (the "lazy" one) sleeps.\nthe [0] dog, the "quick" one'
HOSTILE = "<b>x</b></script>\u2028\0\u202e\U0001f642&amp;\t'\""
UNITS = """const trace = throughtime.state.trace, units = [...Array(13).keys()];
return trace.names.map((_, step) => units.map((unit) => trace.value("l0", "h", unit, step)))"""
PLACES = """return ["cells", "strips", "bars", "list", "generate", "value"]
  .map((id) => document.getElementById(id).getBoundingClientRect().top + scrollY)"""
COLORS = (
    "return [...document.querySelectorAll('#cells i')].map((cell) => getComputedStyle(cell).backgroundColor)"
)
# The contrast of two colors as WCAG 2 has it, of what a canvas makes of them.
CONTRAST = """
const canvas = document.createElement("canvas"), g = canvas.getContext("2d");
canvas.width = canvas.height = 1;
const light = (color, under) => {
  g.fillStyle = under; g.fillRect(0, 0, 1, 1); g.fillStyle = color; g.fillRect(0, 0, 1, 1);
  const [r, b, c] = [...g.getImageData(0, 0, 1, 1).data].slice(0, 3).map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * b + 0.0722 * c;
};
const contrast = (fore, back) => {
  const [a, b] = [light(fore, back), light(back, getComputedStyle(document.body).backgroundColor)];
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
};
"""


def state(browser, name):
    return browser.js(f"return throughtime.state.{name}")


@pytest.mark.parametrize(("width", "dark"), [(1200, False), (1200, True), (400, False), (400, True)])
@pytest.mark.parametrize("model", ["text", "frames"])
def test_it_loads_without_complaints_and_fits(browser, served, width, dark, model):
    browser.look(width, 900, dark)
    browser.open(served, model)
    assert browser.js("return document.documentElement.scrollWidth") <= width
    assert browser.js(
        "return strips.width > 0 && cells.childElementCount > 0 && list.childElementCount > 0 && bars.childElementCount > 0"
    )
    too_wide = """return [...document.querySelectorAll('button, select, input, p, h2, section, canvas')]
      .filter((each) => each.offsetParent && each.getBoundingClientRect().right > innerWidth + 1)
      .map((each) => each.id || each.tagName)"""
    assert browser.js(too_wide) == []
    assert browser.complaints() == []


@pytest.mark.parametrize("dark", [False, True])
def test_colors_have_enough_contrast(browser, served, dark):
    browser.look(1200, 900, dark)
    browser.open(served, "text")
    browser.type(TEXT)
    worst = browser.js(
        CONTRAST
        + """
        const found = {}, ink = getComputedStyle(document.body).color;
        for (let level = 0; level <= 20; level++) {
          const probe = document.body.appendChild(document.createElement("i"));
          probe.className = "v" + level;
          const back = getComputedStyle(probe).backgroundColor;
          found["level " + level] = contrast(ink, level === 10 ? getComputedStyle(document.body).backgroundColor : back);
          probe.remove();
        }
        const ground = (each) => {
          for (; each; each = each.parentElement) {
            const back = getComputedStyle(each).backgroundColor;
            if (back !== "rgba(0, 0, 0, 0)") return back;
          }
          return "white";
        };
        for (const each of document.querySelectorAll("p, h1, h2, small, button:not(:disabled), #list span, label span, b")) {
          const words = each.offsetParent && each.textContent.trim();
          if (words) found[each.id || words] = contrast(getComputedStyle(each).color, ground(each));
        }
        return Object.entries(found).sort((a, b) => a[1] - b[1])[0];
        """
    )
    assert worst[1] >= 4.5, worst


def test_a_typed_text_is_colored_by_the_unit(browser, served, runs):
    browser.open(served, "text")
    browser.type(TEXT)
    found = browser.js(
        "return [...document.querySelectorAll('#cells i')].map((cell) => cell.className.match(/v(\\d+)/)[1])"
    )
    unit = state(browser, "unit")
    trained = runs("text")
    values = Inspector(trained).read(sources.of_text(trained, TEXT)).parts["l0"]["h"][:, unit]
    wanted = (10 * values / values.abs().max()).tolist()
    assert len(found) == len(TEXT)
    assert max(abs(int(level) - 10 - value) for level, value in zip(found, wanted, strict=True)) < 0.65
    assert len(set(browser.js(COLORS))) > 4
    assert f"unit {unit} = " in browser.js("return line.textContent")


def test_another_unit_part_and_layer_change_the_colors(browser, served):
    browser.open(served, "text")
    browser.type(TEXT)
    seen = [browser.js(COLORS)]
    for change in (
        "unit.value = (throughtime.state.unit + 1) % 11; unit.dispatchEvent(new Event('input'))",
        "part.value = 'f'; part.dispatchEvent(new Event('change'))",
        "layer.value = 'l1'; layer.dispatchEvent(new Event('change'))",
        "color.value = 'surprise'; color.dispatchEvent(new Event('change'))",
    ):
        browser.js(change)
        browser.wait(
            f"const found = (() => {{ {COLORS} }})(); return String(found) !== arguments[0]",
            ",".join(seen[-1]),
        )
        seen.append(browser.js(COLORS))
    assert len({tuple(each) for each in seen}) == len(seen)


def test_units_are_sorted_by_what_they_go_with(browser, served, runs):
    browser.open(served, "text")
    browser.type(TEXT * 3)
    browser.js("sort.value = 'f0'; sort.dispatchEvent(new Event('change'))")
    rows = browser.js(
        "return [...list.children].map((row) => [...row.children].map((part) => part.textContent))"
    )
    assert {row[1] for row in rows} == {'inside "..."'}
    sizes = [abs(float(row[2].replace("\u2212", "-"))) for row in rows]
    assert sizes == sorted(sizes, reverse=True) and len(rows) == 13
    assert state(browser, "unit") == int(rows[0][0])
    browser.js("list.focus()")
    browser.keys(Keys.ARROW_DOWN)
    assert state(browser, "unit") == int(rows[1][0])


def test_correlations_over_a_longer_text_are_kept(browser, served):
    browser.open(served, "text")
    steps = state(browser, "trace.length")
    browser.type("a fox")
    assert steps >= 300 and state(browser, "known.steps") == steps
    browser.type(TEXT * 6)
    assert state(browser, "known.steps") == len(TEXT) * 6
    note = browser.driver.find_element("id", "units-note").text
    assert note == f"Correlation r over {len(TEXT) * 6} steps"


def test_arrow_keys_move_and_shift_selects(browser, served):
    browser.open(served, "text")
    browser.type(TEXT)
    browser.js("document.querySelector('#cells i').focus()")
    browser.keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert state(browser, "cursor") == 3 and browser.js("return document.activeElement.step") == 3
    browser.keys(Keys.ARROW_DOWN)  # into the second line, three characters on
    assert state(browser, "cursor") == TEXT.index("\n") + 1 + 3
    browser.keys(Keys.ARROW_UP, Keys.HOME)
    assert state(browser, "cursor") == 0
    browser.keys(Keys.END)
    assert state(browser, "cursor") == TEXT.index("\n")
    browser.keys(Keys.SHIFT, Keys.ARROW_LEFT, Keys.ARROW_LEFT, Keys.NULL)
    assert state(browser, "selection") == [TEXT.index("\n") - 2, TEXT.index("\n")]
    browser.keys(Keys.ESCAPE)
    assert state(browser, "selection") is None
    assert (
        browser.js(
            "return [...document.querySelectorAll('#cells i')].filter((cell) => cell.tabIndex === 0).length"
        )
        == 1
    )
    label = browser.js("return document.activeElement.getAttribute('aria-label')")
    assert label.startswith("new line, ") or "unit" in label
    outline = browser.js("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def test_everything_is_reached_with_the_tab_key(browser, served):
    browser.open(served, "text")
    browser.js("document.activeElement.blur()")
    seen = []
    for _ in range(40):
        browser.keys(Keys.TAB) if seen else browser.driver.find_element("tag name", "body").send_keys(
            Keys.TAB
        )
        here = browser.js(
            "const at = document.activeElement; return at.getAttribute('role') === 'gridcell' ? 'cell' : at.id"
        )
        if here in seen and here:
            break
        seen.append(here)
    wanted = [
        "text",
        "read",
        "color",
        "layer",
        "part",
        "unit",
        "cell",
        "strips",
        "sort",
        "list",
        "threshold",
        "generate",
        "step",
    ]
    wanted += ["fork", "seed", "temperature", "value", "hold", "apply", "rewrite"]
    assert [each for each in seen if each in wanted] == wanted


def test_pointing_shows_what_a_prediction_depends_on(browser, served, runs):
    browser.open(served, "text")
    browser.type(TEXT)
    cells = browser.driver.find_elements("css selector", "#cells i")
    ActionChains(browser.driver).move_to_element(cells[20]).perform()
    browser.wait(
        "return throughtime.state.hover === 20 && throughtime.state.influence && throughtime.state.influence.step === 20"
    )
    trained = runs("text")
    _, values = Inspector(trained).influence(sources.of_text(trained, TEXT), 20)
    shown = dict(browser.js("return [...throughtime.state.influence.values]"))
    assert shown == pytest.approx(
        {n: float(value / values.max()) for n, value in enumerate(values)}, abs=1e-3
    )
    browser.wait("return document.querySelectorAll('#cells i.g5').length > 0")
    marked = browser.js(
        "return [...document.querySelectorAll('#cells i')].filter((cell) => /g\\d/.test(cell.className)).map((cell) => cell.step)"
    )
    assert int(values.argmax()) in marked and max(marked) < 20
    best = browser.js("return depends.querySelector('b').nextSibling.textContent")
    assert best.startswith(f" {20 - int(values.argmax())} back")


def similar_by_hand(values, a, b, threshold, units):
    """`similarPlaces` for all places without leaving out overlaps, slowly: {(first, last): shared}."""
    on = {
        unit: [sign * v >= threshold * largest for v in values[:, unit].tolist()]
        for unit, (sign, largest) in units.items()
    }
    found = {}
    for unit in units:
        for first in range(len(values)):
            for last in range(first, len(values)):
                inside = all(on[unit][first : last + 1])
                whole = (first == 0 or not on[unit][first - 1]) and (
                    last == len(values) - 1 or not on[unit][last + 1]
                )
                if inside and whole and (last < a or first > b):
                    found[first, last] = sum(all(row[first : last + 1]) for row in on.values())
    return found


def test_similar_places_are_where_the_same_units_are_on(browser, served, runs):
    browser.open(served, "text")
    browser.type(TEXT)
    a = TEXT.index('"lazy"') + 1
    browser.js("document.querySelectorAll('#cells i')[arguments[0]].focus()", a)
    browser.keys(Keys.SHIFT, Keys.ARROW_RIGHT, Keys.NULL)
    assert state(browser, "selection") == [a, a + 1]
    browser.js("threshold.value = 0.3; threshold.dispatchEvent(new Event('input'))")
    places = state(browser, "places")
    values = torch.tensor(
        browser.js(UNITS),
        dtype=torch.float64,
    )
    bounded = browser.js(
        "return throughtime.unitsOn(throughtime.state.trace, 'l0', 'h', arguments[0], arguments[0] + 1, 0.3, true)",
        a,
    )
    every = browser.js(
        "return throughtime.unitsOn(throughtime.state.trace, 'l0', 'h', arguments[0], arguments[0] + 1, 0.3, false)",
        a,
    )
    largest = values.abs().max(0).values
    wanted = {}
    for unit in range(13):
        sign = 1.0 if float(values[a, unit]) >= 0 else -1.0
        on = [sign * v >= 0.3 * float(largest[unit]) for v in values[:, unit].tolist()]
        if on[a] and on[a + 1]:
            wanted[unit] = (sign, float(largest[unit])), not on[a - 1] and not on[a + 2]
    assert [each["unit"] for each in every] == list(wanted)
    assert [each["unit"] for each in bounded] == [unit for unit, (_, ends) in wanted.items() if ends]
    used = {each["unit"]: wanted[each["unit"]][0] for each in (bounded or every)}
    by_hand = similar_by_hand(values, a, a + 1, 0.3, used)
    assert (
        places
        and {(each["first"], each["last"]): each["shared"] for each in places}.items() <= by_hand.items()
    )
    assert [each["shared"] for each in places] == sorted((each["shared"] for each in places), reverse=True)
    assert places[0]["shared"] == max(by_hand.values())
    browser.js("document.querySelector('#places button').click()")
    assert state(browser, "cursor") == places[0]["first"]


def test_generate_pause_step_and_fork(browser, served, runs):
    browser.open(served, "text")
    browser.type("a fox ")
    browser.click("step")
    browser.wait("return throughtime.state.trace.length === 7")
    browser.click("generate")
    assert browser.js("return generate.textContent") == "Pause"
    browser.wait("return throughtime.state.trace.length > 20")
    browser.click("generate")
    assert browser.js("return generate.textContent") == "Generate"
    browser.wait("return !message.className")
    written = browser.wait("return throughtime.state.trace.ids")
    trained = runs("text")
    ids = sources.of_text(trained, "a fox ").inputs[:, 0].tolist()
    again = Inspector(trained).extend(ids, len(written) - 6, seed=0, temperature=0.8)
    settled = browser.wait("return throughtime.state.trace.ids")
    assert again.reading.inputs[:, 0].tolist() == settled[: len(written)]
    browser.js("document.querySelectorAll('#cells i')[8].focus()")
    browser.click("fork")
    assert state(browser, "trace.length") == 9 and state(browser, "branches.length") == 2
    browser.click("step")
    browser.wait("return throughtime.state.trace.length === 10")
    browser.js("document.querySelector('#branches button').click()")
    assert state(browser, "trace.ids")[: len(settled)] == settled
    assert browser.complaints() == []


def test_an_edited_unit_changes_what_follows(browser, served, runs):
    browser.open(served, "text")
    browser.type(TEXT)
    browser.js("document.querySelectorAll('#cells i')[10].focus()")
    browser.js("value.value = 1; value.dispatchEvent(new Event('input'))")
    unit = state(browser, "unit")
    browser.click("apply")
    browser.wait("return throughtime.state.branches.length === 2")
    values = browser.js(
        "const s = throughtime.state; return s.trace.names.map((_, n) => s.trace.value('l0', 'h', s.unit, n))"
    )
    before = browser.js(
        "const s = throughtime.state; return s.trace.names.map((_, n) => s.branches[0].trace.value('l0', 'h', s.unit, n))"
    )
    assert values[10:] == pytest.approx([1.0] * (len(TEXT) - 10), abs=0.01) and values[:10] == before[:10]
    from throughtime.page import Edit

    trained = runs("text")
    wanted = Inspector(trained).read(
        sources.of_text(trained, TEXT), (Edit("l0", "h", unit, 10, 1.0, hold=True),)
    )
    shown = browser.js("return throughtime.state.trace.answers(12).map((each) => each.p)")
    assert shown == pytest.approx(wanted.probabilities[12].tolist(), abs=1e-4)
    browser.click("rewrite")
    browser.wait(
        "return throughtime.state.branches.length === 3 && throughtime.state.trace.length === 11 + 120 && !message.className"
    )
    assert browser.complaints() == []


def test_hostile_text_is_shown_as_text(browser, served, runs, tmp_path):
    browser.open(served, "text")
    browser.type(HOSTILE)
    shown = browser.js("return [...document.querySelectorAll('#cells i')].map((cell) => cell.textContent)")
    assert (
        "".join(shown[:8]) == "<b>x</b>" and "<U+2028>" in shown and "<NUL>" in shown and "<U+202E>" in shown
    )
    assert "\U0001f642" in shown and "<TAB>" in shown
    assert browser.js("return document.querySelectorAll('#cells b').length") == 0
    write_page(
        runs("text"),
        sources.of_text(runs("text"), HOSTILE),
        tmp_path / "page.html",
        source="</script>" + HOSTILE,
    )
    browser.open((tmp_path / "page.html").as_uri())
    assert browser.js("return throughtime.state.trace.names.join('')") == HOSTILE
    assert browser.complaints() == []


def test_errors_of_the_server_are_one_line(browser, served):
    browser.open(served, "text")
    browser.js("text.value = 'a'.repeat(20001)")
    browser.click("read")
    said = browser.wait("return message.className === 'wrong' && message.textContent")
    assert "at most 20,000 steps" in said and "\n" not in said
    browser.type("a fox")  # and it goes on
    assert state(browser, "trace.length") == 5


def test_a_file_needs_no_server(browser, runs, tmp_path):
    trained = runs("frames")
    write_page(trained, sources.of_run(trained, steps=40), tmp_path / "page.html", source="a test")
    for width, dark in ((1200, False), (400, True)):
        browser.look(width, 900, dark)
        browser.open((tmp_path / "page.html").as_uri())
        browser.js("document.querySelectorAll('#cells i')[7].focus()")
        browser.wait("return throughtime.state.influence && throughtime.state.influence.step === 7")
        _, values = Inspector(trained).influence(sources.of_run(trained, steps=40), 7)
        shown = dict(browser.js("return [...throughtime.state.influence.values]"))
        for step, value in enumerate((values / values.max()).tolist()):
            assert shown[step] == pytest.approx(value, abs=0.01)
        assert "throughtime serve" in browser.js("return document.getElementById('source-note').textContent")
        assert browser.js("return document.documentElement.scrollWidth") <= width
    assert browser.complaints() == []


@pytest.mark.parametrize("width", [1200, 400])
def test_the_page_stays_where_it_is(browser, served, width):
    browser.look(width)
    browser.open(served, "text")
    browser.type(TEXT)
    before = browser.js(PLACES)
    for step in (5, 12, 33):
        browser.js("document.querySelectorAll('#cells i')[arguments[0]].focus()", step)
        browser.wait("return throughtime.state.influence")
        assert browser.js(PLACES) == before


def test_a_token_is_asked_for_and_kept(browser, served):
    browser.open(served, "text")
    hide = """
      const real = window.fetch;
      window.fetch = (path, options) => options.headers.authorization === "Bearer secret-token" ? real(path, options)
        : Promise.resolve(new Response(JSON.stringify({error: {message: "a token is needed"}}), {status: 401}));
      document.getElementById("read").click();
    """
    browser.js(hide)
    said = browser.wait("return message.className === 'wrong' && message.textContent")
    assert said.startswith("The server needs a token: type it here")
    assert browser.js("return !document.getElementById('token').hidden")
    browser.driver.find_element("id", "token-value").send_keys("secret-token" + Keys.ENTER)
    browser.wait(
        "return document.getElementById('token').hidden && throughtime.state.trace && !message.className"
    )
    assert browser.js("return sessionStorage.getItem('throughtime-token')") == "secret-token"
    browser.js("sessionStorage.clear()")


def test_nothing_can_be_pressed_before_there_is_something_to_show(browser, served):
    browser.driver.execute_cdp_cmd("Network.enable", {})
    browser.driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["*/v1/inspect/*"]})
    try:
        browser.driver.get(served)
        said = browser.wait("return message.className === 'wrong' && message.textContent")
        assert said.startswith("The server does not answer")
        inert = browser.js(
            "return ['source', 'view', 'time', 'right'].map((id) => document.getElementById(id).inert)"
        )
        assert inert == [True] * 4
    finally:
        browser.driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": []})
    browser.complaints()
    browser.open(served)
    assert not browser.js("return right.inert || source.inert")
