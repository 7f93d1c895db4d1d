"""The page itself: what a visitor sees, and what can be touched."""

from collections.abc import Sequence

import gradio as gr

from . import words
from .answers import Answers
from .models import LEAST_SCORE, ServedModel
from .uploads import Example, Limits

_THRESHOLD = 0.5
_QUEUE = 32  # requests that wait at most; the page tells the next ones to come back later

#: One model runs at a time; of several requests of one kind by one visitor, the last counts.
#: Pictures stay files: Gradio would decode them itself, and log a traceback for what is no image.
_RUNS = dict(concurrency_limit=1, concurrency_id="models", api_visibility="private")
_AGAIN = dict(_RUNS, trigger_mode="always_last")
_FILES = dict(preprocess=False)

_INTRODUCTION = """# Half of the weights, at work

Give a picture to a model, see what it finds, and how few weights it stores for that. Pictures go to
the machine that serves this page and no further, and are deleted after {minutes:g} minutes.
"""

# Empty elements would leave gaps; Gradio frames tables, and makes galleries taller than they need.
STYLE = """
.gradio-container { max-width: 1180px !important; margin: 0 auto; }
.fault { border: 1px solid var(--error-border-color); background: var(--error-background-fill);
  border-radius: var(--radius-md); padding: .6rem .8rem; }
#message:not(:has(.fault)), #summary:not(:has(p)), #objects:not(:has(table)),
#note:not(:has(p)) { display: none; }
#examples .grid-wrap { padding-top: 2rem; min-height: 0; }
#examples .grid-container { grid-template-columns: repeat(4, minmax(0, 1fr)) !important; }
#examples .caption-label { display: none; }
.scroll { max-height: 20rem; overflow: auto; }
:is(table, tr, th, td):is(.objects, .objects *, .facts, .facts *) { border: 0; }
table.objects, table.facts { width: 100%; border-collapse: collapse; font-size: .9rem; }
table.objects :is(th, td) { text-align: right; padding: .2rem .5rem;
  border-bottom: 1px solid var(--border-color-primary) !important; }
table.objects :is(th, td):nth-child(2) { text-align: left; }
table.objects thead th { position: sticky; top: 0; background: var(--body-background-fill); }
table.facts th { text-align: left; font-weight: 400; opacity: .75; padding: .2rem .8rem .2rem 0;
  vertical-align: top; white-space: nowrap; }
table.facts td { padding: .2rem 0; overflow-wrap: anywhere; }
"""


def theme() -> gr.Theme:
    """Gradio's own look with the fonts that the visitor's machine has."""
    return gr.themes.Default(
        primary_hue="blue",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )


def build_page(
    models: Sequence[ServedModel], examples: Sequence[Example], limits: Limits
) -> gr.Blocks:
    """The page for these models, examples and limits."""
    answers = Answers(models, examples, limits)
    first = models[0]

    with gr.Blocks(title="halvit_mm", analytics_enabled=False) as page:
        gr.Markdown(_INTRODUCTION.format(minutes=limits.keep_minutes))
        with gr.Row():
            with gr.Column(scale=4, min_width=320):
                image = gr.Image(
                    label="Picture",
                    sources=["upload", "clipboard"],
                    type="filepath",
                    format="png",
                    height=300,
                    buttons=[],
                    alt_text="The picture as models get it",
                    elem_id="picture",
                )
                message = gr.HTML(elem_id="message")
                gallery = gr.Gallery(
                    [(example.thumbnail, example.file.stem) for example in examples],
                    label="Examples",
                    columns=4,
                    height="auto",
                    allow_preview=False,
                    interactive=False,
                    buttons=[],
                    visible=bool(examples),
                    elem_id="examples",
                )
                model = gr.Dropdown(
                    [model.name for model in models],
                    value=first.name,
                    label="Model",
                    elem_id="model",
                )
                threshold = gr.Slider(
                    LEAST_SCORE,
                    0.95,
                    _THRESHOLD,
                    step=0.05,
                    label="Least score",
                    visible=first.detects,
                    elem_id="threshold",
                )
                facts = gr.HTML(words.facts_table(first.facts), elem_id="facts")
            with gr.Column(scale=6, min_width=320):
                found = gr.Image(
                    label="What the model found",
                    format="png",
                    interactive=False,
                    buttons=["download", "fullscreen"],
                    visible=first.detects,
                    alt_text="The picture with what was found; the table below says the same",
                    elem_id="found",
                )
                classes = gr.Label(
                    label="Likeliest classes",
                    num_top_classes=5,
                    visible=not first.detects,
                    elem_id="classes",
                )
                summary = gr.HTML(elem_id="summary")
                table = gr.HTML(elem_id="objects")
                inside = gr.Image(
                    label=first.inside.title if first.inside else None,
                    format="png",
                    interactive=False,
                    buttons=["download", "fullscreen"],
                    visible=first.inside is not None,
                    alt_text="The picture, bright where the model looks",
                    elem_id="inside",
                )
                note = gr.HTML(elem_id="note")

        picture_and_message = [image, message]
        seen = [message, found, classes, summary, table]
        for changed in (
            image.upload(answers.receive, image, picture_and_message, **_FILES, **_AGAIN),
            gallery.select(answers.pick, None, picture_and_message, **_AGAIN),
            image.clear(lambda: "", None, message, **_AGAIN),
            model.change(answers.describe, model, [threshold, facts], **_AGAIN),
        ):
            # What takes another run comes after what visitors wait for.
            changed.success(
                answers.look, [image, model, threshold], seen, **_FILES, **_RUNS
            ).success(answers.look_inside, [image, model], [inside, note], **_FILES, **_RUNS)
        threshold.change(
            answers.look,
            [image, model, threshold],
            seen,
            show_progress="hidden",
            **_FILES,
            **_AGAIN,
        )
    page.queue(max_size=_QUEUE, default_concurrency_limit=1)
    return page
