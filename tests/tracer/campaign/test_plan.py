"""The file of a campaign: what it comes to, and that whatever is wrong in it is named before anything runs."""

import os
import re
from pathlib import Path

import click
import pytest

from tracer.campaign.plan import MOST_BYTES, Cell, Plan, load
from tracer.commands import main
from tracer.errors import UsageError
from tracer.vm import inner

DOCS = Path(__file__).parents[3] / "docs/campaign.md"


def plan(tmp_path: Path, text: str | bytes) -> Plan:
    path = tmp_path / "c.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load(path)


def test_cells_are_the_product_in_order(tmp_path: Path) -> None:
    found = plan(
        tmp_path,
        """
        campaign = "c"
        [bench]
        workload = "random"
        strategy = ["none", "serialise"]
        cluster_size = [65536, 4096]
        kernel = ["host", "/boot/vmlinuz"]
        [explore]
        guest = ["sub@0 full@1"]
        seed = { first = 3, last = 5 }
        crash = true
        """,
    )
    words = [cell.words for cell in found.cells]
    assert words[:3] == [
        ["explore", "--guest=sub@0 full@1", f"--seed={seed}", "--crash", "--jobs=1", "-q", "--json=-"]
        for seed in (3, 4, 5)
    ]
    assert len(words) == 3 + 8, "bench is last, whatever the order in the file"
    assert words[3][:3] == ["bench", "--strategy=none", "--cluster-size=65536"]
    assert words[5][:4] == ["bench", "--strategy=none", "--strategy=serialise", "--cluster-size=65536"]
    assert words[-1][:6] == ["vm", "run", "--kernel=/boot/vmlinuz", "--memory=5G", "--cpus=2", "--timeout=7200"]
    assert words[-1][6:] == ["--", *words[6]]
    assert len({cell.key for cell in found.cells}) == 11


def test_a_key_is_of_what_runs_and_not_of_how(tmp_path: Path) -> None:
    text = 'campaign = "{}"\n[verify]\nat_once = {}\ntimeout = {}\nfs = ["{}"]\n'
    one, same, other = (
        plan(tmp_path, text.format(*words)).cells[0]
        for words in (("a", 1, 60, "xfs"), ("b", 2, 70.5, "xfs"), ("a", 1, 60, "ext4"))
    )
    assert one.key == same.key != other.key


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("campaign = 3", "campaign: give it a name"),
        ('campaign = "../x"\n[explore]', "campaign: give it a name"),
        ("[explore]\nseed = 1", "campaign: give it a name"),
        ('campaign = "c"', r"nothing to run: add a table \[explore\]"),
        ('campaign = "c"\nverify = 3', r"verify: must be a table"),
        ('campaign = "c"\n[analyze]', "analyze: no such key: there are campaign, vm"),
        ('campaign = "c"\n[verify]\n"fs\\u001b[2J" = "xfs"', r"verify.fs\\x1b\[2J: no such key"),
        ('campaign = "c"\n[explore]\nkernel = "debian"', "explore.kernel: no such key"),
        ('campaign = "c"\n[verify]\nfs = "ntfs"', r"verify.fs: 'ntfs' is not one of"),
        ('campaign = "c"\n[verify]\nfs = ["xfs", 3]', "verify.fs: 3 is not a string"),
        ('campaign = "c"\n[verify]\nfs = ["xfs", "xfs"]', "verify.fs: the same value twice, 'xfs'"),
        ('campaign = "c"\n[verify]\nfs = []', "verify.fs: an empty list makes no cell"),
        ('campaign = "c"\n[verify]\nfs = [["xfs"]]', r"verify.fs: \['xfs'\] is not a string"),
        ('campaign = "c"\n[verify]\nwrites = "600"', "verify.writes: '600' is not an integer"),
        ('campaign = "c"\n[verify]\nwrites = true', "verify.writes: True is not an integer"),
        ('campaign = "c"\n[verify]\nwrites = 0', "verify.writes: 0 is not in the range"),
        ('campaign = "c"\n[verify]\ncluster_size = [5000]', "verify.cluster_size: '5000' is not one of"),
        ('campaign = "c"\n[verify]\nheld = 1', "verify.held: 1 is not true or false"),
        ('campaign = "c"\n[verify]\nkernel = "../../vmlinuz"', "verify.kernel: .* the full path"),
        ('campaign = "c"\n[verify]\nkernel = "/boot/../etc/x"', "verify.kernel: .* the full path"),
        ('campaign = "c"\n[verify]\nseed = { first = 2, last = 1 }', "verify.seed: last is less than first"),
        ('campaign = "c"\n[verify]\nseed = { first = 2 }', "verify.seed: None is not an integer"),
        ('campaign = "c"\n[verify]\nseed = { from = 2 }', "verify.seed.from: no such key"),
        ('campaign = "c"\n[verify]\nwrites = { first = 1, last = 2 }', "verify.writes: only seeds"),
        ('campaign = "c"\n[verify]\nseed = { first = 1, last = 200000 }', "verify.seed: more than the 100000 cells"),
        (
            'campaign = "c"\n[verify]\nfs = ["xfs", "ext4"]\nseed = { first = 1, last = 60000 }',
            "verify: 2 fs x 60000 seed: more than the 100000 cells",
        ),
        ('campaign = "c"\n[verify]\nat_once = 0', "verify.at_once: "),
        ('campaign = "c"\n[verify]\ntimeout = "x"', "verify.timeout: seconds"),
        ('campaign = "c"\n[bench]\nat_once = 2', "bench.at_once: cells that take times run one at a time"),
        ('campaign = "c"\n[bench]\nbudget = nan', "bench.budget: nan is not a number"),
        ('campaign = "c"\n[bench]\nbaseline = "fast"', "strategy: 'fast' is not one of"),
        ('campaign = "c"\n[vm]\nmemory = "lots"\n[verify]', "vm.memory: an amount"),
        ('campaign = "c"\n[vm]\ncpus = 0\n[verify]', "vm.cpus: from 1 to 64"),
        ('campaign = "c"\n[explore]\nguest = "' + "x" * 2000 + '"', "explore.guest: a value of more than"),
        ('campaign = "c"\n[explore]\nguest = "a\\u0000b"', "explore.guest: .*NUL"),
        ('campaign = "c"\n[explore]\nguest = "nonsense@"', "explore: 'nonsense@' is no request of a guest"),
        ('campaign = "c"\n[explore]\nguest = ["sub@0", ""]', "explore: a guest has 1 to 12 requests, not 0"),
        ('campaign = "c"\n[explore]\nguest = "no\\u001b[2J"', r"explore: 'no\\\\x1b\[2J' is no request"),
        ('campaign = "c"\n[verify]\nheld = true\nwrites = 5', "verify: --held makes its own disk .*--writes"),
        ('campaign = "c"\n[verify]\nheld = true\nformat = "raw"', "verify: --held chooses a schedule for qcow2"),
        ('campaign = "c"\n[bench]\nstep = 4096', "bench: --step, .* add --block-size"),
        ('campaign = "c"\n[bench]\nblock_size = 4096\nstep = [8192, 512]', "bench: --step 512 is less than"),
        ('campaign = "c"\n[bench]\nblock_size = 4096\nworkload = "random"', "bench: --block-size makes a workload"),
        ("campaign = ", "not TOML: "),
        (b"campaign = '\xff'", "not TOML: "),
        ("x = " + "[" * 100_000, "not TOML: "),
        (b"#" * (MOST_BYTES + 1), "larger than"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        plan(tmp_path, text)
    assert str(caught.value).isprintable()


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name, message in (("fifo", "no regular file"), ("gone", "No such file"), (".", "directory")):
        with pytest.raises(UsageError, match=message):
            load(tmp_path / name)


def test_an_option_cannot_be_smuggled_in(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no request of a guest"):
        plan(tmp_path, 'campaign = "c"\n[explore]\nguest = ["--replay=/etc/passwd", "-o/etc"]')
    smuggled = Cell("explore", (("guest", "--replay=/etc/passwd"), ("seed", 1)), 60)
    assert smuggled.words[1] == "--guest=--replay=/etc/passwd"


def test_the_examples_of_the_documentation(tmp_path: Path) -> None:
    examples = re.findall(r"```toml\n(.*?)```", DOCS.read_text(), re.DOTALL)
    cells = [cell for text in examples for cell in plan(tmp_path, text).cells]
    assert {cell.command for cell in cells} == {"explore", "verify", "bench"}
    for cell in {cell.command: cell for cell in cells}.values():
        inner.parse(main, cell.inner)  # the command itself takes it
    booted = next(cell for cell in cells if cell.kernel == "racy").words
    with main.make_context("eofrace", booted) as context:
        name, command, left = main.resolve_command(context, [*context._protected_args, *context.args])
        assert name == "vm"
        assert isinstance(command, click.Group)
        assert command.commands["run"].make_context("run", left[1:], parent=context).params["kernel_name"] == "racy"


def test_a_campaign_is_not_for_the_inside_of_a_vm() -> None:
    with pytest.raises(UsageError, match="name its kernel in the campaign's file"):
        inner.parse(main, ["campaign", "c.toml"])
