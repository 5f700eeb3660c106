"""A model of a disk that loses power: synced changes survive, and each other change may or may not."""

import itertools

#: Every subset is tried of up to this many operations that may or may not have reached the disk.
_ALL_SUBSETS = 8
_DRAWN_SUBSETS = 64


class Effect:
    """The effect of one operation on a node; `durable` once it was synced, `stuck` if the sync failed.

    After a failed sync the system treats the pages as clean, and a later sync succeeds without
    writing them (https://wiki.postgresql.org/wiki/Fsync_Errors), so nothing makes them durable.
    """

    def __init__(self, change, *, durable=False):
        self.change = change
        self.durable = durable
        self.stuck = False


class Node:
    def __init__(self):
        self.effects = []

    def sync(self):
        for effect in self.effects:
            effect.durable = effect.durable or not effect.stuck

    def select(self, chosen):
        return [effect.change for effect in self.effects if effect.durable or effect in chosen]


class File(Node):
    """A file; an effect's change is `(offset, data)`, or `(size, None)` for a truncation."""

    def list_possible(self):
        return []

    def fail_sync(self):
        for effect in self.effects:
            effect.stuck = not effect.durable

    def render(self, chosen):
        content = bytearray()
        for offset, data in self.select(chosen):
            content.extend(bytes(max(0, offset - len(content))))
            content[offset : None if data is None else offset + len(data)] = data or b""
        return bytes(content)


class Folder(Node):
    """A folder; an effect's change maps names to nodes, or to None for one that is gone."""

    def fail_sync(self):
        """Leave the entries to the next sync: a file system keeps them in its own journal."""

    def render(self, chosen):
        entries = {}
        for change in self.select(chosen):
            entries.update(change)
        return {name: node for name, node in entries.items() if node is not None}

    def list_possible(self):
        """List every node that may have a name here, whichever operations reach the disk."""
        nodes = list(self.render(()).values())
        for effect in self.effects:
            nodes += [node for node in effect.change.values() if node is not None and not effect.durable]
        return nodes


class Disk:
    """The disk below a folder, all of it durable at the start; it follows the operations there.

    Args:
        root: The folder.
    """

    def __init__(self, root):
        self._root = Folder()
        self._names = {"": self._root}
        self._nodes = {root.stat().st_ino: self._root}
        for path in sorted(root.rglob("*")):
            node = self._add(
                path.relative_to(root).as_posix(), path.stat().st_ino, Folder() if path.is_dir() else File()
            )
            if path.is_file():
                node.effects.append(Effect((0, path.read_bytes())))
        for node in self._nodes.values():
            node.sync()

    def follow(self, operation):
        """Apply an operation; see `operations.Operation`."""
        if operation.error:
            if operation.name == "sync":
                self._nodes[operation.inode].fail_sync()
            return
        getattr(self, f"_{operation.name}")(operation)

    def _add(self, path, inode, node):
        self._nodes[inode] = node
        self._enter({path: node})
        return node

    def _enter(self, entries):
        """Add and remove names of one folder, all in one step."""
        (parent,) = {path.rpartition("/")[0] for path in entries}
        self._names[parent].effects.append(Effect({path.rpartition("/")[2]: node for path, node in entries.items()}))
        self._names.update(entries)

    def _create(self, operation):
        self._add(operation.path, operation.inode, File())

    def _mkdir(self, operation):
        self._add(operation.path, operation.inode, Folder())

    def _write(self, operation):
        change = operation.offset, operation.data.encode("latin-1")
        self._nodes[operation.inode].effects.append(Effect(change))

    def _truncate(self, operation):
        node = self._nodes[operation.inode]
        size, now = operation.offset, len(node.render(node.effects))
        change = (size, None) if size < now else (now, bytes(size - now))
        node.effects.append(Effect(change))

    def _sync(self, operation):
        self._nodes[operation.inode].sync()

    def _rename(self, operation):
        self._enter({operation.path: None, operation.other: self._names[operation.path]})

    def _link(self, operation):
        self._enter({operation.other: self._names[operation.path]})

    def _remove(self, operation):
        self._enter({operation.path: None})

    _rmdir = _remove

    def _touch(self, _):
        """Ignore times, which need not survive a power cut."""

    def list_states(self, rng):
        """Yield the possible states of the disk after a power cut now; each maps paths to bytes, folders to None."""
        pending = self._list_pending()
        if len(pending) <= _ALL_SUBSETS:
            for choices in itertools.product((False, True), repeat=len(pending)):
                yield self._render(set(itertools.compress(pending, choices)))
            return
        yield self._render(set())
        yield self._render(set(pending))
        for effect in pending:
            yield self._render(set(pending) - {effect})
        for _ in range(_DRAWN_SUBSETS):
            yield self._render(set(itertools.compress(pending, rng.integers(0, 2, len(pending)))))

    def _list_pending(self):
        """List the effects that may still be lost, of nodes that may have a name."""
        reachable, rest = {self._root: None}, [self._root]
        while rest:
            node = rest.pop()
            new = [child for child in node.list_possible() if child not in reachable]
            reachable.update(dict.fromkeys(new))
            rest += new
        return [effect for node in reachable for effect in node.effects if not effect.durable]

    def _render(self, chosen):
        state, rest = {}, [("", self._root)]
        while rest:
            path, node = rest.pop()
            state[path] = None if isinstance(node, Folder) else node.render(chosen)
            if isinstance(node, Folder):
                rest += [(f"{path}/{name}" if path else name, child) for name, child in node.render(chosen).items()]
        return state


def write_state(state, root):
    """Write a state into a new folder."""
    for path, content in sorted(state.items()):
        if content is None:
            (root / path).mkdir()
        else:
            (root / path).write_bytes(content)
