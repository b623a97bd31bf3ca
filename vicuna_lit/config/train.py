"""Every knob of the train job on one page. Values are in `conf/train.yaml` and its groups.

`Recipe` is what is computed, `Layout` how it lies on the hardware, `RunSettings` where the run is kept and how it is
watched. The two last ones may change between two starts of a run. A reader of their keys alone begins at these classes.
"""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt

from vicuna_lit.config.base import (
    Config,
    DataConfig,
    ModelConfig,
    NonNegative,
    RunConfig,
    Seed,
)
from vicuna_lit.config.callbacks import CallbacksConfig, DecidingCallbacks, WatchingCallbacks
from vicuna_lit.config.checkpoint import CheckpointConfig
from vicuna_lit.config.choices import FinetuneConfig, StrategyConfig
from vicuna_lit.config.halving import HalvingConfig, StopAfter
from vicuna_lit.config.optimizer import OptimizerConfig
from vicuna_lit.config.path_types import AnyPath, FilePath
from vicuna_lit.config.template import TemplateConfig, TemplateDate
from vicuna_lit.config.tracking import TrainWandbConfig
from vicuna_lit.config.train_checks import TrainChecks, checkpointing_level, devices_here


class DurationConfig(Config):
    """How long is trained."""

    epochs: PositiveFloat
    """Passes over the training conversations; may be a fraction; `max_steps` overrides it."""
    max_steps: PositiveInt | None
    """Optimizer steps of the whole run; null: as many as `epochs` needs."""


class DevicesConfig(Config):
    """What it is trained on."""

    devices: Annotated[PositiveInt, BeforeValidator(devices_here)]
    """Processes on this machine, one device each; under torchrun its --nproc-per-node. auto: as many as it has GPUs."""
    accelerator: Literal["auto", "cpu", "gpu"]
    """auto takes a GPU where there is one."""
    peak_tflops: PositiveFloat | None
    """Of one device, dense, at the run's precision, for MFU; null: as in `estimate/gpus.yaml`, none on a CPU."""


class TrainerConfig(DevicesConfig, DurationConfig):
    """How long, and on what."""


class ValidationConfig(Config):
    """The validation loss, on all replies: before the first step, after the last, and every so many steps."""

    every_steps: PositiveInt | Literal["auto"] | None
    """Taken also after each so many steps. auto: about ten times in a run; null: only at both ends."""
    context_length: PositiveInt | None
    """Of the held-out conversations; null: as in training. Fix it to compare runs of several context lengths."""

    def interval(self, steps: int) -> int | None:
        """Steps from one to the next in a run of so many."""
        return max(1, -(-steps // 10)) if self.every_steps == "auto" else self.every_steps


class SampleRepliesConfig(Config):
    """What the model is asked before and after training, and `every` so many steps. A question is a list of turns."""

    questions: tuple[tuple[str, ...], ...]
    """Conversations to hold with the model, each a list of the user's turns."""
    per_category: Annotated[int, Field(ge=0)]
    """So many of the bundled questions (`vicuna_lit/evaluate/questions.jsonl`) of each category besides."""
    every: PositiveInt | None
    """Asked also after each so many steps; null: only at both ends."""
    max_new_tokens: PositiveInt
    """Of a reply."""


TrainOn = Literal["assistant_messages", "last_assistant_message", "all_tokens", "single_turns"]


class TokensRecipe(Config):
    """What decides the tokens and their masks."""

    context_length: PositiveInt
    """Longest conversation in tokens; longer ones are split on turn boundaries."""
    train_on: TrainOn
    """What the loss is taken on in training: all replies, the last one of each piece, all tokens, or all replies with
    each exchange a conversation of its own (as Alpaca)."""
    train_on_reasoning: bool
    """Whether the loss is also taken on the text of an assistant's thoughts; the model reads them in any case."""
    train_on_placeholders: bool
    """Whether the loss is also taken on `[EMAIL]` and the like, which `vicuna-prepare` puts in the place of personal
    data; the model reads them in any case."""
    system_prompt: str | None
    """For conversations without a system turn; null: the template's own."""
    data: DataConfig
    template: TemplateConfig
    """How a conversation becomes text: one of `conf/template`, the model's own (tokenizer), or what suits it (auto)."""
    template_date: TemplateDate
    """For a template that writes today's date; null: the day of the run's first start."""

    @property
    def loss_on(self) -> str:
        """What the loss is taken on, in words."""
        left = {"reasoning": self.train_on_reasoning, "placeholders": self.train_on_placeholders}
        out = " or ".join(name for name, taken in left.items() if not taken)
        return self.train_on.replace("_", " ") + (f" without {out}" if out else "")


Order = Literal["shuffled", "by_length", "by_score", "by_source"]


class StepsRecipe(Config):
    """What decides which examples each step holds."""

    seed: Seed
    """Of the order of the examples and of random weights."""
    conversations_per_step: PositiveInt
    """The recipe's batch size: examples or conversations (`step_unit`) in an optimizer step, on all devices."""
    step_unit: Literal["example", "conversation"]
    """What `conversations_per_step` counts: examples (conversations, or pieces of those longer than the
    context, as in FastChat), or whole conversations with all their pieces: then another context length, template or
    `train_on` leaves every step the same conversations. One that is refused keeps its place in the order, empty, but
    not in a mixture, whose shares count what is trained on."""
    order: Order
    """Of examples or conversations (`step_unit`) within each pass: shuffled; by_length, short to long; by_score, from
    the least of the number that `data.score_field` names; by_source, all of the first of `data.sources`, then all of
    the next, each shuffled inside. Those that are alike are shuffled."""
    taken_before: Annotated[int, Field(ge=0)] | None
    """Examples or conversations (`step_unit`) at the beginning of the order that are left out, since they were trained
    on before. null: those that the run which this one `extends` has taken; none without it."""
    trainer: DurationConfig


class ModelRecipe(Config):
    """What decides the model and which of its weights are trained."""

    precision: Literal["fp32", "bf16-mixed", "bf16-true"]
    """bf16-mixed keeps weights and optimizer state in fp32 and multiplies in bf16; bf16-true has weights in bf16."""
    master_weights: bool
    """Under bf16-true: the optimizer keeps fp32 weights and state, and rounds after each step."""
    model: ModelConfig
    """Weights to start from, or random ones: one of `conf/model`."""
    finetune: FinetuneConfig
    """Which weights are trained: one of `conf/finetune`."""

    @property
    def tokenizer_path(self) -> str:
        """Where the tokenizer lies: beside the weights unless named."""
        return self.model.tokenizer or self.model.path or ""

    @property
    def tokenizer(self) -> tuple[str, ...]:
        """What names the tokenizer: its place, and the tokens that it gets besides its own."""
        return self.tokenizer_path, *(self.model.add_tokens or ())


class Recipe(ModelRecipe, StepsRecipe, TokensRecipe):
    """What is computed. Runs that differ here are different experiments, and none resumes the other."""

    extends: FilePath | None
    """Folder of a finished run. This one begins with its weights and optimizer state, and takes the conversations that
    come after its last; `trainer` and `optimizer` say for how long and at which rate. null: begins with the model."""
    optimizer: OptimizerConfig
    validation: ValidationConfig
    samples: SampleRepliesConfig
    callbacks: DecidingCallbacks


LMHead = Literal["chunked", "exact", "plain", "liger"]


class Layout(Config):
    """How it lies on the hardware. It may change between two starts of a run, as run settings may; for each key a test
    shows that the losses stay (test_invariance.py)."""

    tokens_per_device: PositiveInt
    """The memory's batch size: the longest packed row. Gradient accumulation follows from it."""
    packing: bool
    """Several examples to a row (they never see each other); false: one."""
    token_cache_gb: NonNegative
    """Of tokenised conversations that are kept in the user's cache folder for all processes and later runs, mapped into
    memory; what was used longest ago goes first. `python -m vicuna_lit.data.token_cache` shows them. Validation losses
    before training are kept beside them. 0: none, each process tokenises for itself and holds it in memory."""
    attention: Literal["auto", "sdpa_per_conversation", "sdpa_mask", "flash", "varlen", "flex"]
    """Which kernel; each keeps the examples of a row apart. sdpa_* run anywhere, the others on a GPU. auto: flash
    where it is installed, else varlen, on a GPU in 16 bits; sdpa_per_conversation elsewhere."""
    lm_head: LMHead
    """How the LM head and its loss are computed. chunked: some positions at a time, multiplied in bf16 where the model
    is and the device has units for it; exact: the same in fp32; plain: full logits in fp32; liger: in fp32 on a GPU."""
    gradient_checkpointing: Annotated[str, BeforeValidator(checkpointing_level)]
    """What is recomputed in the backward pass: none, full (every layer), every_<k> (each k-th, k ≥ 2), attention.
    auto: on a GPU the first of none, every_4, every_2, full that fits its memory, by the estimate; none on a CPU."""
    offload_activations: bool
    """Keep what the backward pass needs in CPU memory."""
    kernels: Literal["torch", "liger"]
    """Who computes the layers' norms and gated MLPs: torch, or Liger's kernels on a GPU, for families they are tested
    with. They keep less for the backward pass; compiled layers are fused without them."""
    compile: bool | Literal["auto"]
    """torch.compile the decoder's layers, once for rows of any length. auto: on a GPU with a C compiler, where nothing
    else stands against it (deterministic, offload_activations, kernels=liger, qlora, ZeRO-3, experts, token mixers)."""
    deterministic: bool
    """Only kernels that give the same bits each time: then a stopped run on a GPU ends as one left alone, to the bit.
    They are slower. Without it such a run agrees to rounding; on a CPU the bits are the same in any case."""
    strategy: StrategyConfig
    """How weights, gradients and optimizer state lie on several devices: one of `conf/strategy`."""
    trainer: DevicesConfig


class Computation(Layout, Recipe):
    """A recipe and its layout: all that the devices are given to do."""

    trainer: TrainerConfig  # pyright: ignore[reportIncompatibleVariableOverride]  # sound, for configs are frozen


class RunSettings(Config):
    """Where the run is kept and how it is watched over; nothing of the result depends on it."""

    run: RunConfig
    dry_run: bool
    """Print what would run (steps, tokens, layout; of a sweep all jobs and what differs) and stop."""
    verbose: bool
    """Print the plan, the progress, sample replies and where everything lies. false: notes, and a line at the end; for
    a loop of runs, or a sweep, whose table says the rest."""
    alike: bool
    """Of a sweep over `context_length`, `train_on`, `template`, `system_prompt` or the model, which cut conversations
    in other ways: count whole conversations in a step, and judge all runs by the longest context, so that they differ
    in what is swept alone. It sets `step_unit` and `validation.context_length` where you do not."""
    show_masks: Annotated[int, Field(ge=0)]
    """Print so many of the first records with what the loss is taken on, and the account of all, and stop; no weights
    are needed. 0: train."""
    estimate: bool
    """Of a sweep: say first what each job needs; jobs that do not fit into this machine's memory are not started."""
    evaluate_after: dict[str, str | int | float | bool] | None
    """Settings of `vicuna-evaluate`, such as `{judge: rule}`: after training it compares the base with the model."""
    push: str | None
    """`organisation/name` on the Hugging Face Hub: `hf/` is uploaded after the run, with a generated model card."""
    push_private: bool
    """Whether a repository that `push` makes is private."""
    on_failure: Literal["stop", "continue", "retry"]
    """What a sweep does when a job fails: ends, goes on, or tries it once more and goes on."""
    objective: str
    """What a job of a sweep returns to Hydra's sweeper: a figure of `result.json`, such as `val_loss`."""
    claim: AnyPath | None
    """Of a sweep: a YAML file of what you expect (docs/sweeps.md), kept before it starts, shown with what came out."""
    callbacks: WatchingCallbacks
    checkpoint: CheckpointConfig
    halving: HalvingConfig | None
    """Of a sweep: stop the worse settings early, as `{rungs: [0.1, 0.3], keep: 0.5}`. A run that is stopped and goes
    on is the run left alone, learning rate and all. null: every run to its end."""
    stop_after: StopAfter
    """Save and stop after so many steps, or a part of all below 1 (then the last validation up to there). The learning
    rate is that of the whole run; the same command without it goes on. null: to the end."""
    resume: Literal["auto", "never", "must"]
    """auto goes on from the newest checkpoint in the run's folder, must stops where there is none."""
    wandb: TrainWandbConfig


class TrainConfig(Computation, RunSettings, TrainChecks):
    """The train job; `conf/train.yaml`. Three parts in one flat page: `recipe`, `layout` and `run_settings`.

    A function names the part that it needs as the type of its config, and cannot see the rest.
    """

    callbacks: CallbacksConfig  # pyright: ignore[reportIncompatibleVariableOverride]  # sound, for configs are frozen

    @property
    def recipe(self) -> Recipe:
        """What is computed."""
        return Recipe.part_of(self)

    @property
    def layout(self) -> Layout:
        """How it lies on the hardware."""
        return Layout.part_of(self)

    @property
    def run_settings(self) -> RunSettings:
        """Where the run is kept."""
        return RunSettings.part_of(self)
