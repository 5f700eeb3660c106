"""Help texts: options in panels, and arguments by their plain names."""

from typing import TYPE_CHECKING

from typer.core import TyperCommand

if TYPE_CHECKING:
    from typer._click import Context, HelpFormatter

#: Panels in order, with the parameters that belong to each; the others are in the last panel.
PANELS: dict[str, str] = {
    "Source": (
        "backbone layer weights root path_column label_column split_column layout label_pattern map_labels only "
        "except_ exclude split finetune run drop duplicates"
    ),
    "Images": "image_size resize interpolation decoder bits augment views view_seed",
    "Training": (
        "clf param scaling class_weight calibration protocol curve sample test_size cv folds group seed unfreeze "
        "epochs batch_size optimizer learning_rate head_learning_rate schedule patience monitor batch_norm "
        "label_smoothing val test stratify choose rule"
    ),
    "Output": "name features runs out output as_json dtype pooling on_bad max_bad top fresh force overwrite every",
    "Advanced": "",
}

#: Up to so many options are one list.
_FEW = 8


class PanelCommand(TyperCommand):
    """A verb whose help shows many options in panels."""

    def format_options(self, ctx: "Context", formatter: "HelpFormatter") -> None:
        """Write the arguments, then the options of each panel."""
        arguments, options = list[tuple[str, str]](), list[tuple[str, tuple[str, str]]]()
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            if parameter.param_type_name == "argument":
                arguments.append((str(parameter.metavar), record[1]))
            else:
                options.append((_find_panel(str(parameter.name), self.name), record))
        sections = {"Arguments": arguments}
        if len(options) <= _FEW:
            sections["Options"] = [record for _, record in options]
        else:
            sections |= {panel: [own for of, own in options if of == panel] for panel in PANELS}
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)

    def collect_usage_pieces(self, ctx: "Context") -> list[str]:
        """Return the parts of the usage line, without braces around what is required."""
        return [piece.replace("{", "").replace("}", "") for piece in super().collect_usage_pieces(ctx)]


def _find_panel(name: str, verb: str | None) -> str:
    if name == "batch_size" and verb != "finetune":  # elsewhere it only changes the speed
        return list(PANELS)[-1]
    if name == "group" and verb in {"embed", "evaluate"}:  # a column of the table
        return "Source"
    return next((panel for panel, names in PANELS.items() if name in names.split()), list(PANELS)[-1])
