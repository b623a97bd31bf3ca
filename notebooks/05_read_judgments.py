# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Read judgments: who is better, and can the judge tell?
#
# Two models of one short recipe answer questions, two judges compare the answers; then totals with intervals,
# categories, answers side by side, and how far each judge can be trusted. About 75 seconds on 2 CPU cores.

# %%
import json
import re
from collections import Counter
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import matplotlib.pyplot as plt
from IPython.display import Markdown

import vicuna_lit as vl

folder = Path("runs/read_judgments")

# %% [markdown]
# ## Two models
#
# The quickstart's, after 60 steps and after 120. (A longer context than the quickstart's, so that one of them can
# read a judge's prompt below.)

# %%
for name, steps in {"early": 60, "late": 120}.items():
    config = vl.load(
        "train",
        "experiment=quickstart",
        f"trainer.max_steps={steps}",
        "model.architecture.max_position_embeddings=2048",
        "data.max_validation=16",
        "samples.questions=[]",
        "wandb.mode=disabled",
        f"run.dir={folder / name}",
    )
    with redirect_stdout(StringIO()):
        vl.fit(config)

# %% [markdown]
# ## Questions
#
# Without `questions=` an evaluation asks the bundled 80, which a model of a million parameters cannot answer. These are
# the first two exchanges of the quickstart's held-out conversations, with the true replies as references.

# %%
KINDS = {
    "capitals": "capital",
    "opposites": "opposite",
    "counting": "Count",
    "words": "Say the word",
    "lists": "remember|I need",
    "colours": "colour|painted",
    "itself": r"\byou\b",
    "names": "My name is|I am|I am called",
}
questions = []
for talk in vl.read("package://vicuna_lit/quickstart/validation.jsonl"):
    said = [turn.content for turn in talk.turns[:4]]
    kind = next((kind for kind, pattern in KINDS.items() if re.search(pattern, said[0])), "pets")
    questions.append({"question_id": talk.id, "category": kind, "turns": said[::2], "reference": said[1::2]})
file = folder / "question.jsonl"
file.write_text("".join(json.dumps(question) + "\n" for question in questions))
print(dict(Counter(question["category"] for question in questions)))
print(questions[0])

# %% [markdown]
# ## An evaluation
#
# `judge=rule` counts how many of the reference's words an answer has: no judge of quality, as we shall see.

# %%
asked = [f"questions={file}", "max_questions=36", "answers.max_new_tokens=32", "wandb.mode=disabled"]
models = f"models=[{{name: early, path: {folder}/early/hf}},{{name: late, path: {folder}/late/hf}}]"
by_rule = vl.evaluate_models(
    vl.load("evaluate", models, "judge=rule", "judge.both_orders=true", *asked, f"run.dir={folder}/rule")
)
total = by_rule.pairs[0]
low, high = total.win_rate_interval
print(f"{total.model} against {total.opponent}: {total.score:.1f} : {total.opponent_score:.1f} points")
print(
    f"won {total.wins}, tied {total.ties}, lost {total.losses}: win rate {total.win_rate:.1%} ({low:.1%} to {high:.1%})"
)
print(*by_rule.notes, sep="\n")

# %% [markdown]
# Each question is drawn as a whole when the interval is made, since its two turns hang together. By category there are
# few questions, and the intervals are wide; where all of them came out alike they have no width, which four questions
# cannot vouch for.

# %%
rows = sorted(by_rule.categories, key=lambda row: row.win_rate)
figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
for place, row in enumerate([*rows, total]):
    low, high = row.win_rate_interval or (row.win_rate, row.win_rate)
    colour = "black" if row is total else "tab:green"
    axes.plot([100 * low, 100 * high], [place, place], color=colour, linewidth=2)
    axes.plot(100 * row.win_rate, place, "o", color=colour)
axes.axvline(50, color="grey", linewidth=1, linestyle="--")
axes.set_yticks(range(len(rows) + 1), [f"{row.category} ({row.questions})" for row in [*rows, total]])
axes.set(xlabel="win rate of late against early in %, ties count half; 95% interval", xlim=(-3, 103))
plt.show()

# %% [markdown]
# ## Answers side by side


# %%
def side_by_side(evaluation: vl.Evaluation, ids: list[str]) -> Markdown:
    """The answers of all models to some questions."""
    lines = [
        "| question | reference | " + " | ".join(evaluation.models) + " |",
        "|---" * (2 + len(evaluation.models)) + "|",
    ]
    for question in evaluation.questions:
        if question.id in ids:
            for turn, (text, reference) in enumerate(zip(question.turns, question.references, strict=True)):
                answers = [evaluation.answers[model][question.id].turns[turn] for model in evaluation.models]
                lines.append("| " + " | ".join(cell.replace("\n", " ") for cell in [text, reference, *answers]) + " |")
    return Markdown("\n".join(lines))


shown = {question.category: question.id for question in by_rule.questions}
side_by_side(by_rule, [shown[category] for category in ("itself", "capitals", "opposites", "names")])

# %% [markdown]
# The late model has learnt the sentences, and hardly any of the facts: the wrong capital in the right sentence. The
# rule gives it points for the sentence. A table of totals does not show this; the answers do.

# %% [markdown]
# ## Another judge of the same answers
#
# The late model itself, asked which answer is better. Answers are files, so nothing is generated twice; each pair is
# shown in both orders.

# %%
given = f"models=[{folder}/rule/answers/early.jsonl,{folder}/rule/answers/late.jsonl]"
by_model = vl.evaluate_models(
    vl.load("evaluate", given, "judge=local", f"judge.path={folder}/late/hf", *asked, f"run.dir={folder}/local")
)
total = by_model.pairs[0]
print(f"won {total.wins}, tied {total.ties}, lost {total.losses}: win rate {total.win_rate:.1%}")

# %% [markdown]
# Where does a judge disagree with itself? Its reviews are records; in both orders the same answer should win.


# %%
def by_order(reviews: list) -> dict[tuple[str, int], dict[str, str]]:
    """Which model won when which was shown first, by question and turn."""
    found: dict[tuple[str, int], dict[str, str]] = {}
    for review in reviews:
        winner = {"first": review.models[0], "second": review.models[1], "tie": "tie", None: "no verdict"}[
            review.winner
        ]
        found.setdefault((review.question_id, review.turn), {})[review.models[0]] = winner
    return found


verdicts = by_order(vl.read_reviews(folder / "local" / "reviews.jsonl").reviews)
counts = Counter((orders["early"], orders["late"]) for orders in verdicts.values())
print("winner with early first | with late first | times")
for (early_first, late_first), count in counts.most_common():
    print(f"{early_first:>23} | {late_first:>15} | {count}")

# %%
judges = [by_rule.judges[0], by_model.judges[0]]
parts = {
    "same winner in both orders": [judge.consistent for judge in judges],
    "always the first": [judge.prefers_first for judge in judges],
    "always the second": [judge.prefers_second for judge in judges],
}
parts["a winner and a tie"] = [1 - sum(shares) for shares in zip(*parts.values(), strict=True)]
figure, axes = plt.subplots(figsize=(7, 1.9), layout="constrained")
left = [0.0, 0.0]
for (what, shares), colour in zip(parts.items(), ["#9fd8a9", "#d62728", "#ff9896", "#cccccc"], strict=True):
    axes.barh(["rule", "late model"], shares, left=left, color=colour, label=what)
    left = [start + share for start, share in zip(left, shares, strict=True)]
axes.invert_yaxis()
axes.set(xlabel="share of answers judged in both orders", xlim=(0, 1))
figure.legend(loc="outside lower center", ncols=4, fontsize="small")
plt.show()

# %% [markdown]
# Two judges' agreement, from their reviews alone (Cohen's kappa: 1 is full agreement, 0 is chance):

# %%
both = vl.evaluate_models(
    vl.load(
        "evaluate",
        "judge=recorded",
        f"judge.reviews=[{folder}/rule/reviews.jsonl,{folder}/local/reviews.jsonl]",
        f"questions={file}",
        f"run.dir={folder}/both",
        "wandb.mode=disabled",
    )
)
for pair in both.agreements:
    print(f"{' and '.join(pair['judges'])}: kappa {pair['kappa']:.2f} on {pair['shared']} answers")

# %% [markdown]
# The second judge's 50% looks like a finding, that both models are equally good. Its two orders say what it is: a
# preference for a place.
#
# ## The page, and other people's reviews
#
# Each evaluation writes `report.html`, one file with all of this and what the judge said of every answer; open it in a
# browser.

# %%
for name in ("rule", "local", "both"):
    page = folder / name / "report.html"
    print(page, f"{page.stat().st_size / 1000:.0f} kB")

# %% [markdown]
# Published reviews are read in the same way: FastChat's, MT-bench's, QLoRA's, PandaLM's.
#
# ```python
# recorded = "<FastChat>/…/review/vicuna-13b_20230322-clean-lang"
# vl.read_reviews(recorded).reviews
# vl.evaluate_models(vl.load("evaluate", "judge=recorded", f"judge.reviews={recorded}", "questions=<file>")).pairs
# ```
#
# The last gives the article's 513 : 694 and 664 : 655.5 (`tests/unit/evaluate/test_published_reviews.py`).
# A judge to rely on is one that agrees with itself in both orders and with people: `judge=endpoint`, `judge=human`.
