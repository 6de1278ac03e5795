"""The bundled tasks: what a problem is, when a response is right, and that the data never change unnoticed."""

from __future__ import annotations

import itertools
import random

import pytest

from dllm_env.denoisers.tiny import MANY_WORDS, WORDS
from dllm_env.errors import UsageError
from dllm_env.tasks.base import SPLITS, Problem, Split, Task, split_of
from dllm_env.tasks.cascade import Cascade
from dllm_env.tasks.choice import Choice
from dllm_env.tasks.copying import Copy
from dllm_env.tasks.load import load_task
from dllm_env.tasks.sudoku import Sudoku
from dllm_env.tasks.trace import Trace

BACKWARD = Trace(order="backward")
TASKS = [Trace(), Trace(1), Trace(4), Sudoku(), BACKWARD, Cascade(), Choice(), Copy()]

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
    "trace:order=backward": [
        "backward a 7 b -2 c -2 d -1 e -1 g 9 h *3 i +2 j -1 k -1",
        "backward a 9 b +3 c +2 d *7 e -2 g 1 h -2 i +3 j *3",
        "backward a 2 b +3 c *7 d +1 e +3 f *3 g 3 h -1 i *3 j *3",
        "backward a 6 b -3 c *3 d -3 e *7 g 1 h -1 i -1 j *7 k +1",
        "backward a 9 b -2 c -1 d -1 e +2 g 4 h -1 i *3 j *7 k +3 l *7",
        "backward a 0 b *3 c -3 d -2 g 3 h -1 i +3 j *3",
        "backward a 6 b -3 c +3 d +3 g 6 h *3 i -3 j *7 k -2",
        "backward a 9 b -3 c +1 d -1 g 8 h *3 i -1 j +2 k +3 l -3",
        "backward a 8 b -3 c -2 d +2 e +1 g 3 h -2 i -1 j +1 k +2",
    ],
    "copy": [
        "copy o d v a l b 3 v h t 3 7 d t c l b i 4 l n p o 7 6 4 m m h w d 1",
        "copy 0 2 a 1 u 8 f a a n s 0 a k k 9 k h i 2 9 w b 1 u g f a a s r k",
        "copy i q b 7 t l 7 j q x c l 0 1 g u s c x 8 0 6 f a 9 r b 9 s 0 o w",
        "copy i 8 3 v t 5 h 0 3 6 h v 2 2 r j m g 1 t 4 e v 1 1 a 1 g b k 0 l",
        "copy 8 s 4 c i h m u 1 7 x c 3 r 5 i 9 i t s 1 a x w 5 t 2 b n 8 v u",
        "copy v 0 h c 0 u q x i s f a 2 j q h a b b m 5 6 f k r k 5 u 0 r j k",
        "copy e g v q b 1 o v w b 1 1 j j n 9 i v s 7 v j p 5 n n c t t s m k",
        "copy i q 6 j p 7 f r c r d 3 u w i 0 0 x q l h c 4 b q 0 a i 2 8 2 5",
        "copy g o 7 c r j h j 5 2 q w k m k w v h o f o n i i l m q 5 s c 2 7",
    ],
    "choice": [
        "choice 0 b k x 4 e p q 7 a n q 6 a m w 1 f k r",
        "choice 7 a m u 2 h o r 5 g n q 4 h l u 1 d j s",
        "choice 0 d n x 3 g k s 4 d p u 7 c m q 1 a o x",
        "choice 1 h i v 1 c o s 3 d p v 6 h p w 6 f l u",
        "choice 7 d l v 4 a o r 3 e o t 6 h o s 1 g n s",
        "choice 6 c i r 3 c o s 4 b m t 1 a o v 2 f n x",
        "choice 1 c i x 0 b n r 1 f l x 6 g m r 0 b l u",
        "choice 0 f o x 2 e i x 0 h j w 2 h o t 3 d j x",
        "choice 3 b m t 0 g p w 5 h l x 4 e p x 7 a l x",
    ],
    "cascade": [
        "cascade 8 -1 8 2 7 *3 *3 -3 *3 -2 1 -1 +3 +3 -1 *3 1 +3 -1 9",
        "cascade *7 -1 3 0 8 *3 -3 9 *7 4 +3 *3 +2 -3 *3 +1 +3 2 *3 5",
        "cascade +3 +3 9 +2 4 +3 +1 2 7 9 *7 3 +3 6 5 *7 *3 *3 1 5",
        "cascade -1 -1 -3 9 +3 +2 6 *7 *3 +1 *3 -1 7 +2 -3 *7 0 +3 7 8",
        "cascade *7 *3 -3 -3 9 *7 +1 +2 2 +2 -1 -2 -1 *3 7 0 +1 5 *3 5",
        "cascade +2 *3 1 -1 +3 +3 *7 +2 *7 9 5 +1 *7 +1 2 -2 8 +2 2 5",
        "cascade -1 7 4 -2 +1 *3 0 9 4 3 +2 *7 +1 1 -2 +2 -3 2 2 9",
        "cascade *3 2 +3 -1 +1 -3 -2 +3 +2 *3 -2 -1 -2 9 -2 *3 *7 +3 +2 0",
        "cascade *7 -3 -2 1 -2 +3 *7 +2 4 +1 -3 *7 +2 -1 4 7 -3 6 *3 8",
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
    assert isinstance(task, Trace | Sudoku | Cascade | Choice | Copy)
    words = set(WORDS if task.name in ("trace", "trace:chains=1", "trace:chains=4", "sudoku") else MANY_WORDS)
    rng = random.Random(0)
    for i, split in itertools.product(range(150), SPLITS):
        problem = task.problem(i, split)
        assert (problem.task, problem.split, problem.index) == (task.name, split, i)
        assert len(problem.prompt.split()) <= task.prompt_length
        assert set(problem.prompt.split()) <= words
        for shuffle in (False, True):
            response = task.reference(problem, rng, shuffle)
            assert len(response.split()) <= task.response_length
            assert set(response.split()) <= words
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


# ------------------------------------------------------------------------------------------- backward


@pytest.mark.parametrize(
    ("response", "score"),
    [
        ("8 d 6 c 8 b ; 6 l 2 k 1 j 7 i 1 h", 1.0),
        ("6 l 2 k 1 j 7 i 1 h ; 8 d 6 c 8 b", 1.0),
        ("8 d ; 6 l", 1.0),
        ("b 8 c 6 d 8 ; h 1 i 7 j 1 k 2 l 6", 0.0),
        ("d 8 c 6 b 8 ; l 6 k 2 j 1 i 7 h 1", 0.0),
        ("8 d 6 c 8 b", 0.0),
        ("8 d 6 c 8 b ; 7 l 2 k 1 j 7 i 1 h", 0.0),
        ("8 ; 6", 0.0),
        ("", 0.0),
    ],
)
def test_traces_from_their_end(response: str, score: float) -> None:
    problem = hand_made(f"backward {PROGRAM.prompt}", *PROGRAM.answer)
    assert BACKWARD.score(problem, response) == score


def test_a_backward_reference_is_a_mirror_with_every_step_and_no_filler() -> None:
    problem = hand_made(f"backward {PROGRAM.prompt}", *PROGRAM.answer)
    one, other = "8 d 6 c 8 b", "6 l 2 k 1 j 7 i 1 h"
    assert BACKWARD.reference(problem, random.Random(0), shuffle=False) == f"{one} ; {other}"
    drawn = {BACKWARD.reference(problem, random.Random(seed)) for seed in range(20)}
    assert drawn == {f"{one} ; {other}", f"{other} ; {one}"}


# -------------------------------------------------------------------------------------------- cascade


def test_a_cascade_by_hand() -> None:
    """From the right: 7, 7 − 2 = 5, 5 · 3 → 5, a new run with 4, 4 + 1 = 5, and fifteen nines."""
    prompt = "cascade +1 4 *3 -2 7 " + "9 " * 15
    values = "5 4 5 5 7 " + "9 " * 15
    problem = Problem("cascade", "test", 0, 0, prompt.strip(), tuple(values.split()))
    assert Cascade().score(problem, values) == 1.0
    for wrong in ("", values[2:], values + "9", values.replace("4", "3"), values.replace(" ", "")):
        assert Cascade().score(problem, wrong) == 0.0


def test_cascades_are_what_an_evaluation_of_our_own_says() -> None:
    """20 columns, the last a digit, of the others 35%: 7.65 on average; the longest runs are long."""
    digits, longest = [], 0
    for i in range(400):
        problem = Cascade().problem(i)
        columns = problem.prompt.removeprefix("cascade ").split()
        assert len(columns) == len(problem.answer) == 20
        starts = [k for k, column in enumerate(columns) if column.isdigit()]
        assert starts[-1] == 19
        digits.append(len(starts))
        for k in range(20):
            end = next(place for place in starts if place >= k)
            longest = max(longest, end - k)
            assert problem.answer[k] == str(eval_chain([columns[end], *reversed(columns[k:end])]))
    assert sum(digits) / 400 == pytest.approx(1 + 19 * 0.35, abs=5 * (19 * 0.35 * 0.65 / 400) ** 0.5)
    assert longest > 10


# --------------------------------------------------------------------------------------------- choice

PARTNERS = dict(zip("0123abcdijklqrst4567efghmnopuvwx", "4567efghmnopuvwx0123abcdijklqrst", strict=True))
FIRST = set("0123abcdijklqrst")


def taken(problem: Problem, *halves: int) -> list[str]:
    """What stands there if these halves of the four kinds are taken."""
    symbols = problem.prompt.split()[1:]
    return [s if (s in FIRST) == (halves[i % 4] == 0) else PARTNERS[s] for i, s in enumerate(symbols)]


def test_a_kind_takes_one_half() -> None:
    """All 16 choices are right; one symbol of the other half, or any other number of symbols, is wrong."""
    task = Choice()
    for i in range(20):
        problem = task.problem(i)
        for halves in itertools.product((0, 1), repeat=4):
            right = taken(problem, *halves)
            assert task.score(problem, " ".join(right)) == 1.0
            for place in (0, 7, 19):
                wrong = [*right[:place], PARTNERS[right[place]], *right[place + 1 :]]
                assert task.score(problem, " ".join(wrong)) == 0.0
        right = taken(problem, 0, 1, 0, 1)
        assert task.score(problem, " ".join(right[:-1])) == 0.0
        assert task.score(problem, " ".join([*right, "a"])) == 0.0
        assert task.score(problem, " ".join([*right[1:], right[0]])) == 0.0


def test_a_choice_by_hand() -> None:
    prompt = "choice 0 e i x 7 a p q " + "5 c k s " * 3
    problem = Problem("choice", "test", 0, 0, prompt.strip(), tuple(prompt.split()[1:]))
    assert Choice().score(problem, "0 a m t 3 a p q " + "1 c o s " * 3) == 1.0
    # l is of another half than m and o
    assert Choice().score(problem, "0 a m t 3 a l q " + "1 c o s " * 3) == 0.0
    assert Choice().score(problem, "0 a i t 3 a l q " + "1 c k s " * 3) == 1.0
    assert Choice().score(problem, "4 e m x 7 e p u " + "5 g o w " * 3) == 1.0


def test_references_of_a_choice_are_all_sixteen() -> None:
    task, problem = Choice(), Choice().problem(0)
    drawn = {task.reference(problem, random.Random(seed)) for seed in range(400)}
    assert drawn == {" ".join(taken(problem, *halves)) for halves in itertools.product((0, 1), repeat=4)}


# ----------------------------------------------------------------------------------------------- copy


def test_a_copy_is_the_same() -> None:
    task = Copy()
    problem = task.problem(0)
    symbols = problem.prompt.split()[1:]
    assert len(symbols) == 32
    assert task.score(problem, " ".join(symbols)) == 1.0
    assert task.score(problem, " ".join(symbols[:-1])) == 0.0
    assert task.score(problem, " ".join([*symbols, "a"])) == 0.0
    assert task.score(problem, " ".join([*symbols[1:], symbols[0]])) == 0.0


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


@pytest.mark.parametrize("name", [*GOLDEN, "trace:chains=1", "trace:chains=4,order=backward"])
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
        ("trace:links=2", "trace has no setting 'links'; it has chains, order"),
        ("trace:order=sideways", "order"),
        ("cascade:columns=3", "cascade has no setting 'columns'; it has none"),
        ("trace:chains", "trace: chains must be a whole number, got 'chains'"),
        ("trace:=2", "cannot read the setting '=2'"),
        ("sudoku:size=9", "sudoku has no setting 'size'; it has given"),
        ("sudoku:name=9", "sudoku has no setting 'name'; it has given"),
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
