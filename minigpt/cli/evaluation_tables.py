"""What `minigpt evaluate` prints: a table of the stages, then every measure of the last one."""


from minigpt.cli.console import note
from minigpt.cli.tables import label, table

SHARES = ("chosen_is_likelier", "accuracy", "exact_match", "manner")  # of 1, shown as percentages
ROW_GROUPS = ("task", "language", "source")  # what rows may name: figures of answers, not of tokens
HEADS = {
    "bits_per_byte": "bits\nper byte", "chosen_is_likelier": "chosen\nlikelier", "exact_match": "right\nanswers",
    "manner": "short,\npolite", "accuracy": "judged\nright",
}  # fmt: skip


def show_evaluation(result: dict) -> None:
    """All finished stages as one table, where they were measured; then one row per measurement of one stage."""
    if len(stages := result.get("stages", {})) > 1:
        _show_stages(stages)
    figures, rows = result.get("figures", {}), []
    for name, value in result.items():
        if isinstance(value, dict | list | str):  # the names of run and stage, which may be long, stand above
            continue
        shown = f"{value:,.4f}" if isinstance(value, float) else f"{value:,}"
        rows.append([label(name), shown, *_interval(figures.get(name, {}))])
    rows += [[label(name), *_value(one), *_interval(one)] for name, one in figures.items() if name not in result]
    whose = f"{result['run']}, stage {result['stage']}"
    table(whose, ["", "", "95 % interval", "rows"] if figures else ["", "", "", ""], rows)
    for name, groups in result.get("by", {}).items():
        if name in ROW_GROUPS and "exact_match" in groups[0]["figures"]:
            lines = [[group["label"], *_value(group["figures"]["exact_match"]),
                      *_interval(group["figures"]["exact_match"])] for group in groups]  # fmt: skip
            table(f"{label('exact_match')} by {name}", ["", "", "95 % interval", "rows"], lines)
    if "reliability" in result:
        _show_reliability(result["reliability"])


def _show_reliability(lines: list[dict]) -> None:
    """Of what was said with such a probability, how much was true."""
    rows = [[f"{line['low']:.2f} to {line['high']:.2f}", f"{line['count']:,}", f"{line['predicted']:.3f}",
             f"{line['observed']:.3f}"] for line in lines]  # fmt: skip
    table("Reliability", ["probability", "count", "predicted", "true"], rows)


def _value(figure: dict) -> list[str]:
    return ["–" if figure["value"] is None else f"{figure['value']:,.4f}"]


def _interval(figure: dict) -> list[str]:
    """Interval and number of rows; empty for what has none, a dash where one row gives none."""
    if not figure:
        return ["", ""]
    known = figure["low"] is not None and figure["high"] is not None
    return [f"{figure['low']:.4f} to {figure['high']:.4f}" if known else "–", f"{figure['rows']:,}"]


def _show_stages(stages: dict[str, dict[str, float]]) -> None:
    """A row per stage; a dash stands for what was not measured."""
    names = [
        name for name in ("loss", "perplexity", "bits_per_byte", *SHARES)
        if any(name in found for found in stages.values())
    ]  # fmt: skip
    rows = []
    for stage, found in stages.items():
        cells = []
        for name in names:
            value = found.get(name)
            shown = "–" if value is None else f"{100 * value:.1f} %" if name in SHARES else f"{value:,.3f}"
            cells.append(shown)
        rows.append([stage, *cells])
    table("Each stage on held-out data", ["after", *(HEADS.get(name, name) for name in names)], rows)
    note("Each stage is measured on held-out rows of its own data, dpo's loss on those of the stage before it.")
    if "chosen_is_likelier" in names:
        note("Chosen likelier: in itself. The accuracy that DPO reports while it trains counts what it has changed.")
