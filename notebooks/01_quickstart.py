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
# # Quickstart: from a conversation to a model that answers
#
# Compose a config, look at what is trained on, train, plot, chat. About a minute on 2 CPU cores.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import vicuna_lit as vl

# %% [markdown]
# ## A config
#
# The same words as on the command line; every value comes from `conf/`.

# %%
folder = Path("runs/quickstart")
config = vl.load("train", "experiment=quickstart", f"run.dir={folder}", "wandb.mode=disabled")
print(f"{config.context_length = }, {config.conversations_per_step = }, {config.optimizer.lr = }")

# %% [markdown]
# ## A conversation and its mask
#
# Green tokens are supervised: each reply with its stop token, nothing else. `</s>` typed by a user
# stays plain text.

# %%
encoder = vl.make_encoder(config)
vl.show_mask(
    vl.Conversation.of("My name is Ada.", "Nice to meet you, Ada.", "What is </s> my name?", "Your name is Ada."),
    encoder,
)

# %% [markdown]
# ## Training

# %%
result = vl.fit(config)

# %%
rows = np.genfromtxt(folder / "metrics.csv", delimiter=",", names=True, dtype=None, encoding="utf8")
figure, axes = plt.subplots(figsize=(7, 3))
axes.plot(rows["step"], rows["loss"], label="training")
axes.axhline(result.val_loss, color="tab:green", linestyle="--", label=f"held out: {result.val_loss:.3f}")
axes.set(xlabel="optimizer step", ylabel="loss (nats per supervised token)", yscale="log")
axes.legend()
plt.show()

# %% [markdown]
# ## Chat

# %%
chat = vl.Chat.load(folder / "hf")
for question in ["Hello, I am called Nadia.", "Who are you?", "What is my name?"]:
    print(f"USER: {question}\nASSISTANT: {chat.say(question)}\n")
