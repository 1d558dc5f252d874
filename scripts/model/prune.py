#!/usr/bin/env python3
"""The protocol of backups, forget and prunes on one repository, gone through exhaustively.

Two backups, two prunes and a person who forgets backups act on one pack of two slots, one store call at a time, in every order; any of them
may stop for ever at any step, and what matters of that, die. In no state may a manifest refer to a slot that no object has.

As designed, no such state is reachable. Leaving out any one safeguard makes one reachable, and the shortest way there is found:

    scripts/model/prune.py            checks the design, and that each safeguard is needed; prints a line for each
    scripts/model/prune.py --trace    prints the ways there as well

Names follow docs/architecture.md ("Prune"). Time is only this: the grace is longer than the time between a backup's check and its manifest, so
a mark has aged once no backup is left that had begun its check before the mark and has neither published its manifest nor died.
"""

import sys
from collections import deque

FULL = 0b11  # Both slots.
FIRST = (0, "", 0)  # The object that a backup wrote: generation, who wrote it, in which run.

BACKUPS = ("B", "C")
PRUNES = {"X": 2, "Y": 1}  # And how often each runs.

DESIGN = {
    "recheck": True,  # A backup looks at the marks once more before its manifest.
    "absent": True,  # A backup treats doomed objects as absent.
    "grace": True,  # A mark must age before its object is deleted.
    "relist": True,  # Manifests are listed after the mark has aged.
    "copy": True,  # A doomed object that is needed is copied; its mark is never taken back.
    "marks-first": True,  # A backup's check lists marks before it looks at objects.
    "mark-last": True,  # A mark is removed after its object, not before.
}

LEFT_OUT = {
    "a backup does not look at the marks before its manifest": ["recheck"],
    "a backup refers to doomed objects": ["recheck", "absent"],
    "what was marked is deleted without a grace": ["grace"],
    "what was marked is deleted without listing the manifests anew": ["relist"],
    "a doomed object that is needed is un-doomed": ["copy"],
    "the mark goes before its object": ["mark-last"],
}


def start():
    objects = frozenset({(FIRST, FULL)})
    manifests = frozenset({("A", 0b11), ("D", 0b01)})
    backups = tuple(("idle",) for _ in BACKUPS)
    prunes = tuple(("idle", runs) for runs in PRUNES.values())
    return objects, frozenset(), manifests, backups, prunes


def is_broken(state):
    objects, _, manifests, _, _ = state
    there = 0
    for _, slots in objects:
        there |= slots
    return any(need & ~there for _, need in manifests)


def slots_of(objects, name):
    return next((slots for known, slots in objects if known == name), 0)


# Backups: idle -> ready(refers to, looked at) -> marks(..., marks seen) -> ok(refers to) -> done


def with_backup(state, number, backup, manifests=None, marks=None):
    objects, old_marks, old_manifests, backups, prunes = state
    backups = backups[:number] + (backup,) + backups[number + 1 :]
    marks = old_marks if marks is None else marks
    return objects, marks, old_manifests if manifests is None else manifests, backups, prunes


def over(state, number, manifests=None):
    """The backup has published its manifest, failed, or died: no mark need wait for it any longer."""
    marks = state[1]
    if any(number in waits for _, waits in marks):
        marks = frozenset((name, waits - {number}) for name, waits in marks)
    return with_backup(state, number, ("done",), manifests, marks)


def usable(objects, doomed):
    """The object that a backup may refer to: generation 0, else the newest, that is not doomed."""
    names = [name for name, _ in objects if name not in doomed]
    return FIRST if FIRST in names else max(names, default=None)


def step_backup(state, number, rules):
    objects, marks, manifests, backups, _ = state
    who, backup = BACKUPS[number], backups[number]
    doomed = frozenset(name for name, _ in marks)
    if backup[0] == "idle":
        for parent, need in sorted(manifests):
            name = usable(objects, doomed if rules["absent"] else frozenset())
            refers = need & slots_of(objects, name)
            if refers:
                yield f"{who} begins with parent {parent}, refers to {refers:02b} in {name}", with_backup(
                    state, number, ("ready", refers, name)
                )
    elif backup[0] == "ready":
        _, refers, name = backup
        if rules["marks-first"]:
            yield f"{who} lists the marks", with_backup(state, number, ("marks", refers, name, doomed))
        else:
            yield f"{who} looks at the objects", with_backup(state, number, ("marks", refers, name, objects))
    elif backup[0] == "marks":
        _, refers, name, seen = backup
        doomed, there = (seen, objects) if rules["marks-first"] else (doomed, seen)
        if not rules["recheck"]:
            doomed = frozenset()
        candidates = [(known, slots) for known, slots in there if known not in doomed]
        if any(known in (FIRST, name) or slots & refers == refers for known, slots in candidates):
            yield f"{who} finds all that it refers to", with_backup(state, number, ("ok", refers))
        else:
            yield f"{who} gives up", over(state, number)
    elif backup[0] == "ok":
        yield f"{who} publishes its manifest", over(state, number, manifests | {(who, backup[1])})
        yield f"{who} dies", over(state, number)


# Prunes: idle(runs) -> objects(runs, objects) -> marks(runs, objects, doomed, aged) -> acts(runs, what is to be done) -> idle(runs - 1)


def with_prune(state, number, prune, objects=None, marks=None):
    old_objects, old_marks, manifests, backups, prunes = state
    prunes = prunes[:number] + (prune,) + prunes[number + 1 :]
    objects = old_objects if objects is None else objects
    return objects, old_marks if marks is None else marks, manifests, backups, prunes


def decide(who, run, objects, doomed, aged, manifests, rules):
    """What a prune does about the pack: docs/architecture.md, and src/repository/prune/pack.rs."""
    need = 0
    for _, slots in manifests:
        need |= slots
    fresh = [(name, slots) for name, slots in objects if name not in doomed]
    copies, marks, deletes, late = [], [], [], []
    keeper = None
    if need:
        lost = need
        for _, slots in objects:
            lost &= ~slots
        need &= ~lost
        base = min(fresh, key=lambda one: (bin(need & ~one[1]).count("1"), tuple(map(str, one[0]))), default=None)
        keeper = base and base[0]
        if base is None or need & ~base[1] or base[1] & ~need:
            if not rules["copy"] and (base is None or need & ~base[1]):
                back = max(name for name, slots in objects if name in doomed)
                return (("take back the mark of", back),)
            generation = max(name[0] for name, _ in objects) + 1
            keeper = (generation, who, run)
            copies = [("copy to", keeper, need, tuple(sorted(name for name, _ in objects)))]
    for name, _ in sorted(objects):
        if name == keeper:
            continue
        if name not in doomed:
            marks.append(("mark", name))
        elif name in aged:
            deletes += [("delete", name), ("unmark", name)] if rules["mark-last"] else [("unmark", name), ("delete", name)]
    if not rules["relist"]:
        # Deletes on the strength of the listing that the marks were made by, as soon as they have aged.
        late = [("delete when aged", name) for _, name in marks]
    gone = [("unmark if gone", name) for name in sorted(doomed) if not slots_of(objects, name)]
    return tuple(copies + deletes + marks + late + gone)


def step_prune(state, number, rules):
    objects, marks, manifests, backups, prunes = state
    who, prune = tuple(PRUNES)[number], prunes[number]
    kind, runs = prune[0], prune[1]
    if kind == "idle" and runs:
        yield f"{who} lists the objects", with_prune(state, number, ("objects", runs, objects))
    elif kind == "objects":
        doomed = frozenset(name for name, _ in marks)
        aged = frozenset(name for name, waits in marks if not waits or not rules["grace"])
        yield f"{who} lists the marks", with_prune(state, number, ("marks", runs, prune[2], doomed, aged))
    elif kind == "marks":
        _, _, seen, doomed, aged = prune
        acts = decide(who, runs, seen, doomed, aged, manifests, rules)
        after = ("acts", runs, acts) if acts else ("idle", runs - 1)
        yield f"{who} lists the manifests", with_prune(state, number, after)
    elif kind == "acts":
        yield from act(state, number, rules)


def act(state, number, rules):
    objects, marks, _, backups, prunes = state
    who, (_, runs, acts) = tuple(PRUNES)[number], prunes[number]
    idle = ("idle", runs - 1)
    first, rest = acts[0], acts[1:]
    what, name = first[0], first[1]
    said, after = f"{who}: {what} {name}", ("acts", runs, rest) if rest else idle
    if what == "copy to":
        _, _, need, sources = first
        there = 0
        for source in sources:
            there |= slots_of(objects, source)
        if there & need == need:
            yield f"{said} the slots {need:02b}", with_prune(state, number, after, objects=objects | {(name, need)})
        else:
            yield f"{who} gives up: its sources are gone", with_prune(state, number, idle)
    elif what == "mark":
        # Nobody needs to wait for the mark of an object that is gone.
        busy = (n for n, backup in enumerate(backups) if backup[0] in ("marks", "ok"))
        waits = frozenset(busy if slots_of(objects, name) else ())
        known = any(marked == name for marked, _ in marks)
        yield said, with_prune(state, number, after, marks=marks if known else marks | {(name, waits)})
    elif what == "delete" or what == "delete when aged":
        waits = next((waits for marked, waits in marks if marked == name), frozenset())
        if what == "delete" or not waits:
            gone = frozenset((known, slots) for known, slots in objects if known != name)
            settled = frozenset((marked, waits if marked != name else frozenset()) for marked, waits in marks)
            yield said, with_prune(state, number, after, objects=gone, marks=settled)
    elif what in ("unmark", "take back the mark of", "unmark if gone"):
        stays = what == "unmark if gone" and slots_of(objects, name)
        left = marks if stays else frozenset((marked, waits) for marked, waits in marks if marked != name)
        yield said, with_prune(state, number, after, marks=left)


def steps(state, rules):
    for number in range(len(BACKUPS)):
        yield from step_backup(state, number, rules)
    for number in range(len(PRUNES)):
        yield from step_prune(state, number, rules)
    objects, marks, manifests, backups, prunes = state
    for manifest in sorted(manifests):
        yield f"{manifest[0]} is forgotten", (objects, marks, manifests - {manifest}, backups, prunes)


def canonical(state):
    """One state for two that differ only in which of the two backups is which."""
    objects, marks, manifests, (one, other), prunes = state
    needs = dict(manifests)
    if (hash(one), needs.get("B", 0)) <= (hash(other), needs.get("C", 0)):
        return state
    if any(waits for _, waits in marks):
        marks = frozenset((name, frozenset(1 - number for number in waits)) for name, waits in marks)
    if "B" in needs or "C" in needs:
        places = {"B": "C", "C": "B"}
        manifests = frozenset((places.get(who, who), need) for who, need in manifests)
    return objects, marks, manifests, (other, one), prunes


def explore(rules):
    """The number of states, and the shortest way to a broken one, if there is any."""
    first = start()
    came = {first: None}
    queue = deque([first])
    while queue:
        state = queue.popleft()
        if is_broken(state):
            way = []
            while came[state]:
                said, state = came[state]
                way.append(said)
            return len(came), way[::-1]
        for said, after in steps(state, rules):
            after = canonical(after)
            if after not in came:
                came[after] = (said, state)
                queue.append(after)
    return len(came), None


def main():
    trace = "--trace" in sys.argv[1:]
    states, way = explore(DESIGN)
    if way:
        print("the design loses data:", *way, sep="\n  ")
        return 1
    print(f"as designed: {states} states, none of them lost anything")
    for what, switches in LEFT_OUT.items():
        states, way = explore(DESIGN | {switch: False for switch in switches})
        if not way:
            print(f"{what}: {states} states and nothing is lost: the model does not see what it should")
            return 1
        print(f"{what}: lost in {len(way)} steps")
        if trace:
            print(*way, sep="\n  ", end="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
