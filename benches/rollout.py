#!/usr/bin/env python3
"""256 episodes in flight against a model that takes a second: what an episode
costs beside the model, and how near the run comes to the model's latency.

    python3 benches/rollout.py target/release/swegym [--peer PYTHON] [--out FILE]

PYTHON is an interpreter that has mini-swe-agent, the peer: as many threads, each
with its own agent loop and local commands. Both talk to the same provider, a
process of its own, one after the other in one run of this script.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SUBMIT = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"


def provider(port_file, latency, turns):
    """Answers `true` so many times in a conversation, then hands in."""
    import asyncio

    async def serve(reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = 0
                for line in head.lower().split(b"\r\n"):
                    if line.startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                body = await reader.readexactly(length)
                said = body.count(b'"role":"assistant"') + body.count(b'"role": "assistant"')
                command = f"true {said}" if said < turns - 1 else SUBMIT
                await asyncio.sleep(latency)
                call = {
                    "id": f"c{said}",
                    "type": "function",
                    "function": {"name": "bash", "arguments": json.dumps({"command": command})},
                }
                message = {"role": "assistant", "content": f"Step {said}.", "tool_calls": [call]}
                answer = json.dumps(
                    {
                        "id": "x",
                        "object": "chat.completion",
                        "created": 0,
                        "model": "fake",
                        "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}],
                        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
                    }
                ).encode()
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
                    % len(answer)
                    + answer
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def main():
        server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 26, backlog=2048)
        Path(port_file).write_text(str(server.sockets[0].getsockname()[1]))
        await server.serve_forever()

    asyncio.run(main())


def watch(process):
    """CPU seconds and peak memory of a process itself, not of its commands."""
    tick = os.sysconf("SC_CLK_TCK")
    cpu, memory, base = 0.0, 0, None
    while process.poll() is None:
        try:
            fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
            cpu = (int(fields[11]) + int(fields[12])) / tick
            for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    memory = int(line.split()[1]) * 1024
            base = base or memory
        except (FileNotFoundError, ProcessLookupError, IndexError):
            break
        time.sleep(0.02)
    process.wait()
    return cpu, memory


def measure(name, command, episodes, turns, latency, env):
    started = time.monotonic()
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out = {}
    reader = threading.Thread(target=lambda: out.update(zip("oe", process.communicate())))
    reader.start()
    cpu, memory = watch(process)
    reader.join()
    wall = time.monotonic() - started
    if process.returncode:
        sys.exit(f"{name} failed: {out['e'].decode()[-2000:]}")
    return {
        "name": name,
        "episodes": episodes,
        "turns": turns,
        "wall_seconds": wall,
        "bound_seconds": turns * latency,
        "cpu_ms_per_step": 1000 * cpu / (episodes * turns),
        "peak_mib_per_episode": memory / 2**20 / episodes,
        "output": out["o"].decode()[-4000:],
    }


PEER = """
import os, sys, threading, yaml
from pathlib import Path
import minisweagent
from minisweagent.agents.default import DefaultAgent
from minisweagent.environments.local import LocalEnvironment
from minisweagent.models.litellm_model import LitellmModel
config = yaml.safe_load((Path(minisweagent.__file__).parent / "config" / "mini.yaml").read_text())
episodes = int(sys.argv[1])
def run():
    agent_config = {k: v for k, v in config["agent"].items() if k in ("system_template", "instance_template", "step_limit", "cost_limit")}
    model = LitellmModel(model_name="openai/fake", cost_tracking="ignore_errors", **{k: v for k, v in config.get("model", {}).items() if k not in ("model_name", "cost_tracking")})
    DefaultAgent(model, LocalEnvironment(), **agent_config).run("Do it.")
threads = [threading.Thread(target=run) for _ in range(episodes)]
[t.start() for t in threads]
[t.join() for t in threads]
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("swegym")
    parser.add_argument("--peer")
    parser.add_argument("--episodes", type=int, default=256)
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--latency", type=float, default=1.0)
    parser.add_argument("--out")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        port_file = folder / "port"
        server = multiprocessing.Process(
            target=provider, args=(port_file, args.latency, args.turns), daemon=True
        )
        server.start()
        while not port_file.exists() or not port_file.read_text():
            time.sleep(0.05)
        url = f"http://127.0.0.1:{port_file.read_text()}/v1"
        corpus = ROOT / "fixtures/integrity"
        task = json.loads((corpus / "tasks/tally-mod/task.json").read_text())
        task["patch"] = (corpus / "tasks/tally-mod/gold.diff").read_text()
        task["test_patch"] = (corpus / "tasks/tally-mod/test.diff").read_text()
        task["source"] = {"dir": str(corpus / "repos/tally")}
        tasks = folder / "tasks.jsonl"
        tasks.write_text(json.dumps(task) + "\n")
        env = dict(os.environ, OPENAI_API_KEY="none")
        subprocess.run([args.swegym, "env", "build", tasks], check=True, env=env, capture_output=True)

        def rollout(name, episodes, turns_limit):
            return [
                args.swegym, "rollout", "--tasks", tasks, "--agent", "bash", "--run-id", name,
                "--out", folder / name, "--model", f"openai:fake@{url}", "--no-grade", "--json",
                "--samples", str(episodes), "--workers", str(episodes),
                "--max-turns", str(turns_limit),
            ]  # fmt: skip

        results = [
            measure(
                "swegym", rollout("run", args.episodes, 100), args.episodes, args.turns,
                args.latency, env,
            )  # fmt: skip
        ]
        ends = json.loads(results[0].pop("output"))["ends"]
        if ends != {"submitted": args.episodes}:
            sys.exit(f"not all were submitted: {ends}")
        seconds = []
        for path in (folder / "run").glob("episodes/*/*/episode.json"):
            seconds.append(json.loads(path.read_text())["seconds"])
        own = [s["total"] - s["model"] - s["commands"] for s in seconds]
        results[0]["own_wall_ms_per_step"] = 1000 * sum(own) / len(own) / args.turns
        if args.peer:
            peer_env = dict(
                env, OPENAI_API_BASE=url, MSWEA_CONFIGURED="true", MSWEA_SILENT_STARTUP="1",
                MSWEA_GLOBAL_CONFIG_DIR=str(folder),
            )  # fmt: skip
            peer = measure(
                "mini-swe-agent", [args.peer, "-c", PEER, str(args.episodes)], args.episodes,
                args.turns, args.latency, peer_env,
            )  # fmt: skip
            peer.pop("output")
            results.append(peer)
        text = json.dumps({"date": time.strftime("%Y-%m-%d"), "cores": os.cpu_count(), "results": results}, indent=1)
        print(text)
        if args.out:
            Path(args.out).write_text(text + "\n")
        server.terminate()


if __name__ == "__main__":
    main()
