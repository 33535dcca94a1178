"""A policy as one C file and its header, for robots on which nothing can be installed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx

from robotrl.deploy.c_policy import ABI
from robotrl.deploy.contract import C_HEADER_FILE, Contract
from robotrl.export.c_network import declare, network_in_c

KERNELS = Path(__file__).with_name("kernels.c")
# golden pairs in the self-test
_TESTED = 16

_HEADER = """\
/* {title}
 *
 * Written by robotrl {version}. Compile policy.c by `cc -O3 -march=<the robot's CPU> -c policy.c`, link
 * with -lm; not with -ffast-math, and with -march=native only on the robot itself.
 * Nothing allocates or keeps state: every function may be called from any thread, at any time.
 *
 * An observation is {observations} numbers:
{inputs}
 * An action is {actions} numbers:
{outputs}
 */
#ifndef ROBOTRL_POLICY_H
#define ROBOTRL_POLICY_H

#define ROBOTRL_ABI {abi}
#define ROBOTRL_OBSERVATIONS {observations} /* numbers of an observation */
#define ROBOTRL_NOISE {noise} /* standard normal numbers that a decision is made from */
#define ROBOTRL_HORIZON {horizon} /* actions of a decision, one for each control step */
#define ROBOTRL_ACTIONS {actions} /* numbers of an action */

enum robotrl_status {{
    ROBOTRL_OK = 0,
    ROBOTRL_BAD_OBSERVATION = 1, /* NaN or infinite */
    ROBOTRL_BAD_NOISE = 2,       /* NaN or infinite */
    ROBOTRL_BAD_ACTION = 3       /* the network returned NaN, an infinite number or one outside its limits */
}};

#ifdef __cplusplus
extern "C" {{
#endif

/* ROBOTRL_ABI of the compiled file. */
int robotrl_abi(void);

/* The contract as JSON: names, units, order and limits of every number, gains, delays, time step. */
const char *robotrl_contract(void);

/* Decide: observation[ROBOTRL_OBSERVATIONS] and noise[ROBOTRL_NOISE] (ignored where that is 0) to
 * action[ROBOTRL_HORIZON * ROBOTRL_ACTIONS] in physical units. Returns a robotrl_status; unless it is
 * ROBOTRL_OK, action is left as it was. */
int robotrl_decide(const float *observation, const float *noise, float *action);

/* Repeat recorded decisions and refuse NaN: 0 if all is well, else 1 + the first thing that is not. */
int robotrl_selftest(void);

#ifdef __cplusplus
}}
#endif
#endif
"""

_SOURCE = """\
/* {title}: see {header}. */
#include "{header}"

#include <math.h>
#include <stdint.h>
#include <string.h>

{kernels}
{constants}

/* Returns whether a number that is not finite was about to be cut to a bound, so to a full command. */
static int robotrl_network(const float *obs, const float *noise, float *action)
{{
    float w[{memory}] __attribute__((aligned(64)));
    int bad = 0;
    (void)noise;
{body}
    return bad;
}}

int robotrl_abi(void) {{ return ROBOTRL_ABI; }}

static const char contract[] =
{contract};

const char *robotrl_contract(void) {{ return contract; }}

{limits}

int robotrl_decide(const float *observation, const float *noise, float *action)
{{
    float decision[ROBOTRL_HORIZON * ROBOTRL_ACTIONS];
    if (!robotrl_all_finite(observation, ROBOTRL_OBSERVATIONS)) return ROBOTRL_BAD_OBSERVATION;
    if (ROBOTRL_NOISE > 0 && !robotrl_all_finite(noise, ROBOTRL_NOISE)) return ROBOTRL_BAD_NOISE;
    if (robotrl_network(observation, noise, decision)) return ROBOTRL_BAD_ACTION;
    if (!robotrl_all_finite(decision, ROBOTRL_HORIZON * ROBOTRL_ACTIONS)) return ROBOTRL_BAD_ACTION;
    for (int i = 0; i < ROBOTRL_HORIZON * ROBOTRL_ACTIONS; i++)
        if (!(decision[i] >= lowest[i] && decision[i] <= highest[i])) return ROBOTRL_BAD_ACTION;
    memcpy(action, decision, sizeof decision);
    return ROBOTRL_OK;
}}

#define TESTED {tested}
{golden}

int robotrl_selftest(void)
{{
    const uint32_t nan_bits = 0x7fc00000u;
    float observation[ROBOTRL_OBSERVATIONS], action[ROBOTRL_HORIZON * ROBOTRL_ACTIONS];
    for (int t = 0; t < TESTED; t++) {{
        const float *noise = golden_noise + t * ROBOTRL_NOISE;
        if (robotrl_decide(golden_observation + t * ROBOTRL_OBSERVATIONS, noise, action)) return 1 + t;
        for (int i = 0; i < ROBOTRL_HORIZON * ROBOTRL_ACTIONS; i++) {{
            float error = fabsf(action[i] - golden_action[t * ROBOTRL_HORIZON * ROBOTRL_ACTIONS + i]);
            if (!(error <= tolerance[i % ROBOTRL_ACTIONS])) return 1 + t;
        }}
    }}
    for (int i = 0; i < ROBOTRL_OBSERVATIONS; i++) {{
        memcpy(observation, golden_observation, sizeof observation);
        memcpy(observation + i, &nan_bits, sizeof nan_bits);
        if (robotrl_decide(observation, golden_noise, action) != ROBOTRL_BAD_OBSERVATION)
            return 1 + TESTED + i;
    }}
    return 0;
}}
"""


def to_c(network: bytes, contract: Contract, golden: Mapping[str, np.ndarray]) -> tuple[str, str]:
    """Write an exported network in C.

    Args:
        network: ONNX, as `to_onnx` returns it.
        contract: goes into the source, but for the hashes of files.
        golden: recorded decisions; the first sixteen become the self-test.

    Returns:
        The source and its header.

    Raises:
        RobotrlError: the network has an operator that there is no C for; names it.
    """
    made = network_in_c(onnx.load_from_string(network))
    tested = min(_TESTED, len(golden["action"]))
    # C has no empty arrays
    recorded = {"observation": 0, "action": 0, "noise": 0} | {
        name: golden[name][:tested] for name in ("observation", "action", "noise") if name in golden
    }
    arrays = [declare(f"golden_{name}", np.asarray(values)) for name, values in recorded.items()]
    tolerance = np.array([contract.atol * max(1.0, term.scale) for term in contract.outputs])
    limits = zip(("lowest", "highest"), contract.command_range(), strict=True)
    title = f"Policy for {_comment(contract.task['name'])}"
    source = _SOURCE.format(
        title=title,
        header=C_HEADER_FILE,
        kernels=KERNELS.read_text(encoding="utf-8"),
        constants=made.constants,
        memory=made.memory,
        body=made.body,
        contract=_string(contract.inside().to_json()),
        limits="\n".join(declare(name, values) for name, values in limits),
        tested=tested,
        golden="\n".join([*arrays, declare("tolerance", tolerance)]),
    )
    header = _HEADER.format(
        title=title,
        version=contract.robotrl_version,
        abi=ABI,
        observations=contract.input_size,
        noise=contract.noise_dim,
        horizon=contract.horizon,
        actions=len(contract.outputs),
        inputs="\n".join(
            f" *   [{term.start}..{term.start + term.size - 1}] {_comment(f'{term.group}/{term.name}')}, "
            f"{_comment(term.unit)}" + (f": {_comment(', '.join(term.elements))}" if term.elements else "")
            for term in contract.inputs
        ),
        outputs="\n".join(
            f" *   [{i}] {_comment(term.name)}, {_comment(term.unit)}, in [{term.low!r}, {term.high!r}]"
            for i, term in enumerate(contract.outputs)
        ),
    )
    return source, header


def _comment(text: str) -> str:
    """Return text that ends no comment."""
    return " ".join(text.split()).replace("*/", "* /").replace("/*", "/ *")


def _string(text: str) -> str:
    """Return a C string constant, line by line."""
    lines = []
    for line in text.splitlines(keepends=True):
        words = []
        for byte in line.encode("utf-8"):
            # "?" might begin a trigraph
            plain = 32 <= byte < 127 and chr(byte) not in '"\\?'
            words.append(chr(byte) if plain else f"\\{byte:03o}")
        lines.append(f'    "{"".join(words)}"')
    return "\n".join(lines)
