"""The bundled tasks: what a problem is, when a response is right, and that the data never change unnoticed."""

from __future__ import annotations

import itertools
import random

import pytest

from dllm_env.denoisers.tiny import WORDS
from dllm_env.errors import UsageError
from dllm_env.tasks.base import SPLITS, Problem, Split, Task, split_of
from dllm_env.tasks.load import load_task
from dllm_env.tasks.sudoku import Sudoku
from dllm_env.tasks.trace import Trace

TASKS = [Trace(), Trace(1), Trace(4), Sudoku()]

GOLDEN = {
    "trace": [
        "a 2 b -1 c *3 d *7 e +3 g 3 h -1 i *3 j -1 k +1",
        "a 4 b +3 c *3 d *3 e +1 f +3 g 7 h +2 i *7 j *3",
        "a 5 b +1 c +3 d +3 e +3 f -3 g 7 h +1 i -1 j -2 k *7 l *7",
        "a 0 b +3 c *3 d -1 g 6 h +1 i -1 j -2 k +3 l +3",
        "a 4 b -3 c -2 d +2 e -3 g 8 h -2 i -1 j -1",
        "a 6 b -2 c *3 d -1 e +3 f -3 g 3 h +1 i +1 j *3 k -1 l +2",
        "a 3 b -3 c +1 d +3 g 9 h +1 i *7 j +3",
        "a 4 b *7 c +3 d -1 g 0 h +1 i +3 j -1",
        "a 9 b +2 c *3 d +1 e +3 g 3 h -1 i *3 j -2 k -1 l +2",
    ],
    "trace:chains=4": [
        "a 5 b -2 c -1 d +1 e -3 g 2 h -1 i -1 j -2 k +1 l -1 m 5 n *7 o *7 p +3 q +1 s 1 t *7 u +2 v -1",
        "a 4 b *3 c *7 d *3 e +3 f *7 g 1 h -3 i +2 j +2 k *3 l +3 m 6 n *7 o -2 p -1 s 2 t +1 u -2 v -2",
        ("a 9 b +1 c +3 d -2 e -2 g 4 h -2 i +3 j *3 k +2 l *3 m 2 n -1 o -2 p *7 q *3 r -2 s 5 t *7 u *7 v +1"),
        (
            "a 2 b +2 c -1 d *7 e -1 f *7 g 2 h -1 i *7 j +2 k +2 m 9 n *3 o +1 p +1 q +1 r -"
            "3 s 2 t -1 u +3 v +3 w *3 x -1"
        ),
        "a 1 b +3 c +3 d +1 e -3 g 0 h -1 i +1 j *3 k *3 m 3 n -2 o -1 p -2 s 7 t *3 u +3 v +3 w *3",
        (
            "a 8 b +3 c +1 d *7 e -3 f -3 g 6 h -2 i +2 j +3 k *3 l +2 m 9 n *3 o *7 p +2 q -"
            "2 s 1 t *3 u *3 v +1 w -2"
        ),
        ("a 9 b +3 c +3 d *3 e +1 g 4 h -3 i -3 j -2 k *7 m 3 n +3 o +3 p +3 q +2 r *3 s 6 t +2 u +1 v -3 w *7"),
        "a 2 b -3 c +3 d +2 e -2 g 8 h -1 i *7 j *7 m 8 n *3 o *7 p *7 s 6 t -3 u +3 v +2 w +1",
        "a 2 b +3 c +3 d +3 g 0 h +1 i -2 j +3 k -3 m 9 n +3 o +2 p -3 s 2 t +3 u -2 v -1",
    ],
    "sudoku": [
        ". 2 3 4 . 3 2 1 . 1 4 3 3 4 . .",
        "1 . . 2 . 2 1 4 . 3 2 1 2 1 4 .",
        "4 . . 1 3 . 2 . 1 . . . . . 1 .",
        ". 1 . 2 3 2 1 . . 3 . 1 1 4 . .",
        "4 . 3 . . 3 . . 1 4 . . . 2 1 .",
        ". 4 . 1 . . 2 . 4 . 1 . 3 1 4 2",
        "4 . 2 . . 3 1 . 3 . . . . . . .",
        "4 3 . 2 2 1 . . . . . . . 2 4 1",
        "1 . 4 3 . . 2 . . 4 . . . 1 . 4",
    ],
}


def hand_made(prompt: str, *answer: str) -> Problem:
    return Problem("trace", "test", 0, 0, prompt, answer)


# a=6 b=6+2=8 c=8-2=6 d=6*3=18→8; g=3 h=3-2=1 i=1*7=7 j=7*3=21→1 k=1+1=2 l=2*3=6
PROGRAM = hand_made("a 6 b +2 c -2 d *3 g 3 h -2 i *7 j *3 k +1 l *3", "d 8", "l 6")


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_problems_are_functions_of_their_arguments(task: Task) -> None:
    forward = [task.problem(i, "train", 3) for i in range(50)]
    backward = [task.problem(i, "train", 3) for i in reversed(range(50))]
    assert forward == backward[::-1]
    assert [task.problem(i, "train", 4) for i in range(50)] != forward
    assert len({problem.prompt for problem in forward}) > 45


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_splits_share_no_prompt(task: Task) -> None:
    prompts = {split: {task.problem(i, split).prompt for i in range(1500)} for split in SPLITS}
    for one, other in itertools.combinations(SPLITS, 2):
        assert not prompts[one] & prompts[other]
    for split in SPLITS:
        assert all(split_of(prompt) == split for prompt in prompts[split])


def test_a_sixteenth_of_the_prompts_is_kept_for_validation_and_for_test() -> None:
    counts = dict.fromkeys(SPLITS, 0)
    for i in range(16_000):
        counts[split_of(str(i))] += 1
    assert 880 < counts["validation"] < 1120
    assert 880 < counts["test"] < 1120


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_prompts_and_references_fit_and_score_one(task: Task) -> None:
    assert isinstance(task, Trace | Sudoku)
    rng = random.Random(0)
    for i, split in itertools.product(range(150), SPLITS):
        problem = task.problem(i, split)
        assert (problem.task, problem.split, problem.index) == (task.name, split, i)
        assert len(problem.prompt.split()) <= task.prompt_length
        assert set(problem.prompt.split()) <= set(WORDS)
        for shuffle in (False, True):
            response = task.reference(problem, rng, shuffle)
            assert len(response.split()) <= task.response_length
            assert set(response.split()) <= set(WORDS)
            assert task.score(problem, response) == 1.0


@pytest.mark.parametrize(
    "response",
    [
        "b 8 c 6 d 8 ; h 1 i 7 j 1 k 2 l 6",
        "h 1 i 7 j 1 k 2 l 6 ; b 8 c 6 d 8",
        "now h 1 so i 7 j 1 k 2 l 6 ; b 8 then c 6 d 8",
        "d 8 ; l 6",
        "l 6 ; d 8",
        "so d 8 ; now l 6",
    ],
)
def test_right_traces(response: str) -> None:
    assert Trace().score(PROGRAM, response) == 1.0


@pytest.mark.parametrize(
    "response",
    [
        "",
        ";",
        "d 8",
        "d 8 ;",
        "d 8 ; d 8",
        "l 6 ; l 6",
        "d 8 ; l 7",
        "d 6 ; l 8",
        "d 8 ; k 6",
        "d 8 ; k 2",
        "b 8 c 6 ; l 6",
        "d 8 ; l 6 ; d 8",
        "d 8 ; l 6 ;",
        "; d 8 ; l 6",
        "d 8 l 6",
        "d 8 ; l 6 so",
        "8 ; 6",
        "d ; l",
        "8 d ; 6 l",
    ],
)
def test_wrong_traces(response: str) -> None:
    assert Trace().score(PROGRAM, response) == 0.0


def test_every_operation_by_hand() -> None:
    """9+1→0, 9+2→1, 9+3→2, 0−1→9, 1−2→9, 2−3→9, 4·3→2, 4·7→8."""
    task = Trace(1)
    for start, operation, value in [
        (9, "+1", 0),
        (9, "+2", 1),
        (9, "+3", 2),
        (0, "-1", 9),
        (1, "-2", 9),
        (2, "-3", 9),
        (4, "*3", 2),
        (4, "*7", 8),
    ]:
        problem = hand_made(f"a {start} b {operation}", f"b {value}")
        assert task.reference(problem, random.Random(0)).split()[-2:] == ["b", str(value)]


@pytest.mark.parametrize("chains", [1, 2, 3, 4])
def test_programs_keep_their_form(chains: int) -> None:
    """Chains of 3 to 5 steps with names of their own, and answers that an evaluation of our own confirms."""
    task, lengths = Trace(chains), set()
    assert (task.prompt_length, task.response_length) == (12 * chains, 20 * chains)
    for i in range(200):
        problem = task.problem(i)
        pairs = list(zip(problem.prompt.split()[::2], problem.prompt.split()[1::2], strict=True))
        starts = [k for k, (_, word) in enumerate(pairs) if word.isdigit()]
        assert [pairs[k][0] for k in starts] == list("agms")[:chains]
        answers = []
        for begin, end in zip(starts, [*starts[1:], len(pairs)], strict=True):
            lengths.add(end - begin - 1)
            names = [name for name, _ in pairs[begin:end]]
            assert names == [chr(ord(names[0]) + k) for k in range(len(names))]
            value = eval_chain([word for _, word in pairs[begin:end]])
            answers.append(f"{names[-1]} {value}")
        assert problem.answer == tuple(answers)
    assert lengths == {3, 4, 5}


def eval_chain(words: list[str]) -> int:
    value = int(words[0])
    for word in words[1:]:
        number = int(word[1:])
        value = {"+": value + number, "-": value - number, "*": value * number}[word[0]]
    return value % 10


def test_references_are_as_varied_as_described() -> None:
    """Of 4,000: 75% write every step (15% more may by chance), 10% bare, chains swapped in half."""
    task, rng = Trace(), random.Random(1)
    full = bare = swapped = 0
    for i in range(4000):
        problem = task.problem(i % 500)
        words = [word for word in task.reference(problem, rng).split() if word not in ("so", "then", "now")]
        first = words.index(";")
        full += len(words) == len(problem.prompt.split()) - 3
        bare += len(words) == 5
        swapped += words[first - 2] > "f"
    assert 0.74 < full / 4000 < 0.82
    assert 0.09 < bare / 4000 < 0.14
    assert 0.46 < swapped / 4000 < 0.54
    kept = [task.reference(task.problem(i), rng, shuffle=False).split() for i in range(100)]
    assert all(words[words.index(";") - 2] <= "f" for words in kept)


# -------------------------------------------------------------------------------------------- sudoku


def solutions(prompt: str) -> list[tuple[int, ...]]:
    """All completions, by depth-first search that knows the rules only."""
    cells = [0 if word == "." else int(word) for word in prompt.split()]

    def allowed(cell: int, value: int) -> bool:
        row, column = divmod(cell, 4)
        for other, there in enumerate(cells):
            r, c = divmod(other, 4)
            same = r == row or c == column or (r // 2, c // 2) == (row // 2, column // 2)
            if other != cell and same and there == value:
                return False
        return True

    def search() -> list[tuple[int, ...]]:
        if 0 not in cells:
            return [tuple(cells)]
        cell, found = cells.index(0), []
        for value in (1, 2, 3, 4):
            if allowed(cell, value):
                cells[cell] = value
                found += search()
        cells[cell] = 0
        return found

    return search()


def test_there_are_288_grids() -> None:
    from dllm_env.tasks.sudoku import _grids

    found = solutions(" ".join(["."] * 16))
    assert len(found) == 288
    assert set(found) == set(_grids())


def test_puzzles_have_one_solution() -> None:
    task, blanks = Sudoku(), []
    for i in range(300):
        problem = task.problem(i)
        assert solutions(problem.prompt) == [tuple(map(int, problem.answer))]
        blanks.append(problem.prompt.split().count("."))
    assert min(blanks) == 5
    assert max(blanks) in (11, 12)


SOLVED = "1 2 3 4 3 4 1 2 2 1 4 3 4 3 2 1"


@pytest.mark.parametrize(
    ("response", "score"),
    [
        (SOLVED, 1.0),
        ("", 0.0),
        (SOLVED[:-2], 0.0),
        (SOLVED + " 1", 0.0),
        (SOLVED.replace("1", "5"), 0.0),
        (SOLVED.replace("1", "."), 0.0),
        ("2 1 3 4 3 4 1 2 1 2 4 3 4 3 2 1", 0.0),  # the rules hold in rows and columns, a given cell was changed
        ("1 2 3 4 2 1 4 3 3 4 1 2 4 3 2 1", 0.0),  # rows and columns hold, boxes do not
        ("1 2 3 4 1 2 3 4 1 2 3 4 1 2 3 4", 0.0),
    ],
)
def test_sudoku_is_scored_by_the_rules(response: str, score: float) -> None:
    problem = Problem("sudoku", "test", 0, 0, "1 . . . " + ". " * 11 + ".", tuple(SOLVED.split()))
    assert Sudoku().score(problem, response) == score


def test_another_valid_grid_also_counts() -> None:
    """The rules decide, not the stored answer."""
    other = "1 2 3 4 3 4 1 2 2 1 4 3 4 3 2 1".translate(str.maketrans("34", "43"))
    problem = Problem("sudoku", "test", 0, 0, "1 2 . . " + ". " * 11 + ".", tuple(SOLVED.split()))
    assert Sudoku().score(problem, other) == 1.0


# -------------------------------------------------------------------------------------------- lookup


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_problems_never_change(name: str) -> None:
    """Reported figures rest on these problems; a change here is a change of the benchmark."""
    splits: tuple[Split, ...] = ("train", "validation", "test")
    task = load_task(name)
    assert [task.problem(i, split).prompt for split in splits for i in range(3)] == GOLDEN[name]


@pytest.mark.parametrize("name", ["trace", "trace:chains=1", "trace:chains=4", "sudoku"])
def test_names_round_trip(name: str) -> None:
    assert load_task(name).name == name
    assert load_task(load_task(name)).name == name


def test_chains_of_two_is_the_plain_task() -> None:
    assert load_task("trace:chains=2").name == "trace"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("maze", "unknown task 'maze'; choose one of trace, sudoku"),
        ("", "unknown task ''"),
        ("trace:chains=0", "1 to 4 chains, got 0"),
        ("trace:chains=5", "1 to 4 chains, got 5"),
        ("trace:chains=2.5", "trace: chains must be a whole number, got '2.5'"),
        ("trace:chains=two", "trace: chains must be a whole number, got 'two'"),
        ("trace:links=2", "trace has no setting 'links'; it has chains"),
        ("trace:chains", "trace: chains must be a whole number, got 'chains'"),
        ("trace:=2", "cannot read the setting '=2'"),
        ("sudoku:size=9", "sudoku has no setting 'size'; it has none"),
        ("sudoku:name=9", "sudoku has no setting 'name'; it has none"),
    ],
)
def test_bad_names_and_settings_are_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_task(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_unknown_split_is_refused(task: Task) -> None:
    with pytest.raises(UsageError, match="unknown split 'dev'; choose one of train, validation, test"):
        task.problem(0, "dev")  # type: ignore[arg-type]
