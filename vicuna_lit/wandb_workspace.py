"""A W&B workspace with every figure that runs log, in an order in which one reads them.

python -m vicuna_lit.wandb_workspace entity=<entity> project=<project>                  saves it; needs a login
python -m vicuna_lit.wandb_workspace entity=<entity> project=<project> output=json      prints it; no network
"""

import re
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2.interface import Report
    from wandb_workspaces.workspaces import Workspace

STEP = "trainer/global_step"
SETTING = "setting"
"""The column of what was chosen but for the seed: runs of one setting are one line with a band."""
LOSSES: dict[str, list[Any]] = {
    "validation loss": ["val/loss"],
    "training loss": ["train/loss"],
}
CURVES = {
    "Validation loss by turn": {"by reply of the conversation": r"^val/loss_by_turn/"},
    "Validation loss by position": {"by position in the conversation": r"^val/loss_by_position/"},
    "Validation loss by source": {"by source of a mixture": r"^val/loss_by_source/"},
    "Optimization": {
        "gradient norm, before clipping": ["train/grad_norm"],
        "learning rate": ["train/lr"],
        "epoch": ["train/epoch"],
    },
    "Speed": {
        "supervised tokens/s": ["speed/supervised_tokens_per_second"],
        "tokens/s": ["speed/tokens_per_second"],
        "model TFLOP/s of a device": ["speed/model_tflops_per_second"],
        "MFU (where the device's peak is known)": ["speed/mfu"],
        "share of the rows that holds tokens": ["data/fill"],
    },
    "Memory": {"peak of a step on the first device, GiB": ["memory/step_peak_gib"]},
    "Waits": {
        "for data, s": ["time/data_seconds"],
        "for saving, s": ["time/save_seconds"],
        "the step itself, s": ["time/step_seconds"],
        "validation losses and replies, s": ["time/validation_seconds"],
    },
}
"""By section and title: keys of the history, or a regular expression that some of them match."""
OVER = {"val/loss_over_turns": "turn", "val/loss_over_positions": "position"}
"""Tables of the last validation, and the column that its loss is drawn over."""
PARAMETERS = ("context_length", "conversations_per_step", "optimizer.lr", "parameters.total", "strategy.kind", "seed")
"""Columns of the config that the parallel coordinates begin with."""
OUTCOME = "val_loss"
DEVICES = 8
"""GPUs of a machine whose use is drawn."""
SYSTEM = {
    "GPUs at work, %": [f"system.gpu.{i}.gpu" for i in range(DEVICES)],
    "GPU memory, %": [f"system.gpu.{i}.memoryAllocated" for i in range(DEVICES)],
    "CPU, %": ["system.cpu"],
    "memory of the machine, %": ["system.memory_percent"],
}
SAMPLES = ("data/masks", "samples/replies", "samples/changes", "time/lost")
EVALUATION = ("eval/table", "eval/answers", "eval/reviews")
"""Tables."""
REPORT = "eval/report"
FIGURES = {"win rate": "eval/win_rate", "score / the opponent's": "eval/ratio", "mean score": "eval/mean_score"}
COLUMNS = (
    "val_loss", "val_loss_best", "val_loss_best_step", "eval/win_rate", "supervised_tokens_per_second",
    "peak_memory_bytes", "seconds",
)  # fmt: skip
"""Of the table of runs, from their summaries; `eval/win_rate` once the model is evaluated."""
PINNED = ["run:displayName", *(f"summary:{name}" for name in COLUMNS)]
OPEN = ("Losses", "Settings", "The last validation")
"""Sections that are not folded."""


def workspace(entity: str, project: str) -> "Workspace":
    """The workspace of a project; `.save()` makes it a view there, which needs a login.

    Runs are grouped by what was chosen but for the seed (`setting`): a setting is a line, its seeds the band around it.
    Its panels show whatever runs the project has; what a run does not log (MFU on an unknown device, replies in
    between) stays empty. Panels for keys of the user's own stand below ours.

    Raises:
        ImportError: the extra `dashboard` is not installed.
    """
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    settings = ws.SectionPanelSettings(x_axis=STEP)
    return ws.Workspace(
        entity=entity,
        project=project,
        name="vicuna_lit",
        auto_generate_panels=True,
        sections=[
            ws.Section(name=name, panels=panels, is_open=name in OPEN, panel_settings=settings)
            for name, panels in _sections(wr).items()
        ],
        settings=ws.WorkspaceSettings(x_axis=STEP),
        runset_settings=ws.RunsetSettings(groupby=[ws.Config(SETTING)], pinned_columns=PINNED),
    )


def report(
    entity: str,
    project: str,
    title: str,
    sentences: Sequence[str],
    rows: Sequence[dict[str, str]],
    runs: Sequence[str],
) -> "Report":
    """What a sweep has shown, with the workspace's panels of its runs alone; `.save()` needs a login.

    Args:
        rows: a table, by column.
        runs: W&B's ids.

    Raises:
        ImportError: the extra `dashboard` is not installed.
        Exception: of W&B, which is asked for the project.
    """
    from wandb_workspaces import expr
    from wandb_workspaces.reports.v2 import interface as wr

    def grid(name: str, panels: list[Any]) -> Any:
        runset = wr.Runset(
            entity=entity,
            project=project,
            name=title[:100],
            filters=[expr.Metric("ID").isin(list(runs))],
            groupby=[f"config.{SETTING}"],
            pinned_columns=PINNED,
        )
        return [wr.H2(name), wr.PanelGrid(runsets=[runset], panels=panels)]

    said: list[Any] = [wr.UnorderedList(items=list(sentences))] if sentences else []
    if rows:
        said.append(wr.MarkdownBlock(text=markdown(rows)))
    grids = [block for one in _sections(wr).items() for block in grid(*one)]
    return wr.Report(entity=entity, project=project, title=title[:128], width="fluid", blocks=[*said, *grids])


def default_place(place: tuple[str | None, str]) -> tuple[str, str]:
    """Entity and project; where there is no entity, that of whoever is logged in."""
    import wandb

    return place[0] or wandb.Api(timeout=20).default_entity or "", place[1]


def markdown(rows: Sequence[dict[str, str]]) -> str:
    """A table whose cells are text, whatever they hold."""

    def line(cells: Iterable[str]) -> str:
        marks = (re.sub(r"([\\`*_{}\[\]<>|#!$~&])", r"\\\1", " ".join(cell.split())) for cell in cells)
        return f"| {' | '.join(marks)} |"

    return "\n".join([line(rows[0]), "|---" * len(rows[0]) + "|", *(line(row.values()) for row in rows)])


def _sections(wr: Any) -> dict[str, list[Any]]:
    """All panels, by the names of their sections, in order."""

    def line(title: str, what: Any, x: str = STEP) -> Any:
        metrics: dict[str, Any] = {"metric_regex": what} if isinstance(what, str) else {"y": what}
        return wr.LinePlot(title=title, x=x, **metrics)

    def tables(names: tuple[str, ...]) -> list[Any]:
        return [wr.WeavePanelSummaryTable(table_name=name) for name in names]

    by_setting: dict[str, Any] = dict(groupby=wr.Config(SETTING), groupby_aggfunc="mean", groupby_rangefunc="minmax")
    losses = [wr.LinePlot(title=title, x=STEP, y=y, **by_setting) for title, y in LOSSES.items()]
    evaluation: list[Any] = [wr.BarPlot(title=title, metrics=[wr.SummaryMetric(key)]) for title, key in FIGURES.items()]
    evaluation.append(wr.MediaBrowser(title="report", media_keys=[REPORT]))
    return {
        "Losses": losses,
        "Settings": _comparison(wr),
        "The last validation": [_curve(wr, *one) for one in OVER.items()],
        **{name: [line(*one) for one in panels.items()] for name, panels in CURVES.items()},
        "System": [line(*one, x="RelativeTime(Process)") for one in SYSTEM.items()],
        "Samples": tables(SAMPLES),
        "Evaluation": [*evaluation, *tables(EVALUATION)],
    }


def _curve(wr: Any, table: str, x: str) -> Any:
    return wr.CustomChart(
        query={"summaryTable": {"tableKey": table}},
        chart_name="wandb/line/v0",
        chart_fields={"x": x, "y": "loss"},
        chart_strings={"title": f"validation loss over {x}s, at the end"},
    )


def _comparison(wr: Any) -> list[Any]:
    """What setting does best, and what it is due to."""
    columns = [wr.ParallelCoordinatesPlotColumn(metric=wr.Config(name)) for name in PARAMETERS]
    columns.append(wr.ParallelCoordinatesPlotColumn(metric=wr.SummaryMetric(OUTCOME)))
    return [
        wr.BarPlot(
            title="validation loss by setting: mean of the seeds, lowest and highest",
            metrics=[wr.SummaryMetric(OUTCOME)],
            groupby=wr.Config(SETTING),
            groupby_aggfunc="mean",
            groupby_rangefunc="minmax",
        ),
        wr.ParallelCoordinatesPlot(title="from the settings to the validation loss", columns=columns),
        wr.ParameterImportancePlot(with_respect_to=OUTCOME),
        wr.RunComparer(diff_only="split"),
    ]


def save_first(run: Any) -> str | None:
    """Saves the workspace of an online run's project, if the run is its first; says so.

    Raises:
        Exception: of W&B: no rights, no network.
    """
    import wandb

    if len(list(wandb.Api(timeout=20).runs(f"{run.entity}/{run.project}", per_page=2)[:2])) > 1:
        return None
    try:
        view = workspace(run.entity, run.project)
    except ImportError:
        return (
            "a workspace with panels for all of it: pip install wandb-workspaces; python -m vicuna_lit.wandb_workspace "
            f"entity={run.entity} project={run.project}"
        )
    view.save()
    return f"this is the project's first run: its workspace is {view.url}"


def as_json(view: "Workspace") -> str:
    """What `save` sends, as JSON."""
    return view._to_model().spec.model_dump_json(by_alias=True, exclude_none=True, indent=1)


def main(arguments: list[str]) -> None:
    """The command; exits with 2 where something is missing."""
    pairs = (argument.partition("=") for argument in arguments)
    values = {key: value for key, _, value in pairs}
    if not {"entity", "project"} <= set(values) <= {"entity", "project", "output"} or not all(values.values()):
        sys.exit(_said("entity=<entity> project=<project> must be given; output=json prints instead of saving"))
    if values.get("output", "json") != "json":
        sys.exit(_said(f"output={values['output']}: no such choice; choices: json"))
    try:
        view = workspace(values["entity"], values["project"])
    except ImportError:
        sys.exit(_said("needs the package wandb-workspaces: pip install -e '.[dashboard]'"))
    if "output" in values:
        print(as_json(view))
        return
    from wandb.errors import UsageError

    try:
        view.save()
    except Exception as error:  # of the login, the network, or the project's rights
        login = "`wandb login` (or $WANDB_API_KEY) is needed to save; output=json prints it without"
        sys.exit(_said(login if isinstance(error, UsageError) else f"W&B did not save it: {error}; {login}"))


def _said(problem: str) -> int:
    print(f"error: {problem}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main(sys.argv[1:])
