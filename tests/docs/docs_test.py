"""What docs/ lists and what the program has are the same: metrics, events, places of faults, configuration keys,
commands; and every link inside the repository leads somewhere."""
import pathlib
import re
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDERS = ("common", "formats", "dataloader", "checkpoint", "model", "comm", "coordinator", "worker", "tools")


def read(path):
    return (ROOT / path).read_text()


def sources():
    return "\n".join(path.read_text() for folder in FOLDERS for path in sorted((ROOT / folder).iterdir())
                     if path.suffix in (".cc", ".h"))


class DocsTest(unittest.TestCase):
    def test_metrics(self):
        self.assertEqual(set(re.findall(r'"(pretrain_[a-z_]+)"', sources())),
                         set(re.findall(r"pretrain_[a-z_]+", read("docs/running.md"))))

    def test_events(self):
        code = sources()
        kinds = set(re.findall(r'\.kind = "([a-z_]+)"', code)) | set(re.findall(r'set_kind\("([a-z_]+)"', code))
        table = read("docs/running.md").partition("| of | kinds |")[2].partition("\n\n")[0]
        self.assertEqual(kinds, set(re.findall(r"`([a-z_]+)`", table)))

    def test_places_of_faults(self):
        table = read("docs/fault-injection.md").partition("## The places")[2].partition("##")[0]
        rows = [line.split("|")[2] for line in table.splitlines() if line.startswith("|")]
        documented = {name for row in rows for name in re.findall(r"`([a-z_]+)`", row)}
        self.assertEqual(set(re.findall(r'Fault(?:Point|Value)\(\s*"([a-z_]+)"', sources())), documented)

    def test_configuration_keys(self):
        table = read("docs/configuration.md")
        for key in re.findall(r'"([a-z_]+)"', read("common/config_keys.cc")):
            self.assertRegex(table, rf"[`. ]{key}[`:. ]", key)

    def test_commands(self):
        table = read("docs/albefctl.md")
        for command in re.findall(r'\{"([a-z]+)", "', read("tools/albefctl_main.cc")):
            self.assertIn(f"| `{command}", table)

    def test_links(self):
        for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
            text = page.read_text()
            for target in re.findall(r"\]\(([^)\s]+)\)", text):
                if "://" in target:
                    continue
                name, _, anchor = target.partition("#")
                linked = (page.parent / name) if name else page
                self.assertTrue(linked.exists(), f"{page.name}: {target}")
                if anchor:
                    headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
                    anchors = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}
                    self.assertIn(anchor, anchors, f"{page.name}: {target}")


if __name__ == "__main__":
    unittest.main()
