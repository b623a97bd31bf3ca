"""A W&B workspace with every figure that runs log, in an order in which one reads them.

python -m vicuna_lit.dashboard entity=<entity> project=<project>                  saves it; needs a login
python -m vicuna_lit.dashboard entity=<entity> project=<project> output=json      prints it; no network
"""

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

STEP = "trainer/global_step"
CURVES = {
    "Losses": {
        "training loss": ["train/loss"],
        "held-out loss": ["heldout/loss"],
        "both": ["train/loss", "heldout/loss"],
    },
    "Held-out loss by turn": {"by reply of the conversation": r"^heldout/loss_by_turn/"},
    "Held-out loss by position": {"by position in the conversation": r"^heldout/loss_by_position/"},
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
    "Memory": {"peak of a step, GiB": ["memory/step_peak_gib"]},
    "Waits": {
        "for data, s": ["time/data_seconds"],
        "for saving, s": ["time/save_seconds"],
        "the step itself, s": ["time/step_seconds"],
        "held-out losses and replies, s": ["time/exam_seconds"],
    },
}
"""By section and title: keys of the history, or a regular expression that some of them match."""
SAMPLES = ("data/masks", "samples/replies", "samples/changes", "time/lost")
EVALUATION = ("evaluation/table", "evaluation/answers", "evaluation/reviews")
"""Tables."""
REPORT = "evaluation/report"
FIGURES = r"^evaluation/.+/(ratio|win_rate|length_controlled_win_rate|mean_score)$"
COLUMNS = ("heldout_loss", "supervised_tokens_per_second", "model_tflops_per_second", "peak_memory_bytes", "seconds")
"""Of the table of runs, from their summaries."""


def workspace(entity: str, project: str) -> "Workspace":
    """The workspace of a project; `.save()` makes it a view there, which needs a login.

    Runs are grouped by the sweep that they belong to (`wandb.group`). Its panels show whatever runs the project
    has; what a run does not log (MFU on an unknown device, replies in between) stays empty.

    Raises:
        ImportError: the extra `dashboard` is not installed.
    """
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    def line(title: str, what: Any, x: str = STEP) -> Any:
        metrics: dict[str, Any] = {"metric_regex": what} if isinstance(what, str) else {"y": what}
        return wr.LinePlot(title=title, x=x, **metrics)

    def section(name: str, panels: list[Any]) -> Any:
        settings = ws.SectionPanelSettings(x_axis=STEP)
        return ws.Section(name=name, panels=panels, is_open=True, panel_settings=settings)

    def tables(names: tuple[str, ...]) -> list[Any]:
        return [wr.WeavePanelSummaryTable(table_name=name) for name in names]

    curves = [section(name, [line(*one) for one in panels.items()]) for name, panels in CURVES.items()]
    evaluation = [line("by pair", FIGURES, "Step"), wr.MediaBrowser(title="report", media_keys=[REPORT])]
    return ws.Workspace(
        entity=entity,
        project=project,
        name="vicuna_lit",
        sections=[
            *curves,
            section("Samples", tables(SAMPLES)),
            section("Evaluation", [*evaluation, *tables(EVALUATION)]),
        ],
        settings=ws.WorkspaceSettings(x_axis=STEP),
        runset_settings=ws.RunsetSettings(
            groupby=[ws.Metric("Group")],
            pinned_columns=["run:displayName", *(f"summary:{name}" for name in COLUMNS)],
        ),
    )


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
