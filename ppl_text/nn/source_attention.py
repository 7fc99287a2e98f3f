"""Networks of sequence-to-sequence models: a reader of the source, and a decoder that attends to it.

Source: Bahuleyan et al. 2018, "Variational Attention for Sequence-to-Sequence Models"; Luong et al. 2015 for bilinear
scores and input feeding (specification 3A; specification 6 for the folding).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.batch import Batch
from ..core.errors import UnknownNameError
from ..core.protocols import State
from .attention import lstm_cell, lstm_step
from .recurrent import reverse_within_length

ORDERS = ("post", "pre")
"""Which state attends: the one after the step, whose reading goes into the output and the next step (Luong et al.), or
the one before it, whose reading goes into the step itself."""


class Memory(NamedTuple):
    """What is known of R sources: ``states`` h_1..h_S (R, S, M), ``keys`` W h_i (R, S, H), which of them ``counted``
    (R, S), and ``last`` (R, M), the states at both ends.
    """

    states: Tensor
    keys: Tensor
    counted: Tensor
    last: Tensor

    @property
    def mean(self) -> Tensor:
        """h̄ (R, M), over the positions that count."""
        counted = self.counted.unsqueeze(-1)
        return torch.where(counted, self.states, 0.0).sum(1) / counted.sum(1)

    def shares(self, scores: Tensor) -> Tensor:
        """softmax of scores (R, K, S) over the positions that count."""
        return torch.where(self.counted.unsqueeze(1), scores, -torch.inf).softmax(-1)

    def read(self, shares: Tensor) -> Tensor:
        """Σ_i α_i h_i, (R, K, M), of weights (R, K, S) that are 0 where nothing counts."""
        return shares @ self.states


Attend = Callable[[Tensor, Memory], Tensor]
"""Makes of a step's attention scores (R, K, S) what is read of the memory, (R, K, M)."""


def softly(scores: Tensor, memory: Memory) -> Tensor:
    """a^det = Σ_i α_i h_i, α the softmax of the scores: deterministic attention."""
    return memory.read(memory.shares(scores))


class SourceReader(nn.Module):
    """h_i = [LSTM over x_1..x_i; LSTM over x_n..x_i], EOS read as well: ``forward(source) -> (states, last)``.

    ``states`` (B, S, 2C), ``last`` (B, 2C): the forward state at the end and the backward state at the beginning.
    Padding has no influence on any state up to the length. Dropout on embeddings, in training only.
    """

    def __init__(self, embedding: nn.Embedding, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding = embedding
        self.onward = nn.LSTM(embedding.embedding_dim, width, batch_first=True)
        self.backward = nn.LSTM(embedding.embedding_dim, width, batch_first=True)
        self.dropout = nn.Dropout(dropout)

    def forward(self, source: Batch) -> tuple[Tensor, Tensor]:
        """Read in both directions."""
        embedded = self.dropout(self.embedding(source.tokens))
        onward, _ = self.onward(embedded)
        backward, _ = self.backward(reverse_within_length(embedded, source.lengths))
        index = (source.lengths - 1).view(-1, 1, 1).expand(-1, 1, onward.shape[-1])
        last = torch.cat([onward.gather(1, index), backward.gather(1, index)], -1).squeeze(1)
        return torch.cat([onward, reverse_within_length(backward, source.lengths)], -1), last


class GateNorm(nn.Module):
    """Layer normalisation of each of the four gates, and of the cell state (Ba et al. 2016), with gains and shifts."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gates = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))
        self.cell = nn.LayerNorm(width)

    def forward(self, gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Return s_t and c_t from the gates' pre-activations (…, 4H) and c_{t-1}, in torch's order of gates."""
        into, forget, new, out = (norm(gate) for norm, gate in zip(self.gates, gates.chunk(4, -1), strict=True))
        cell = self.cell(forget.sigmoid() * cell + into.sigmoid() * new.tanh())
        return out.sigmoid() * cell.tanh(), cell


class Folded(NamedTuple):
    """The decoder's recurrence with what is linear put together.

    ``of_memory`` (4H, M) is the share of what was read in the gates, ``of_state`` (4H, H) that of the state before;
    ``fed`` (4H, H), a part of it, is the share of the output that the state before was made into, None without input
    feeding: there is no such output before the first step.
    """

    of_memory: Tensor | None
    of_state: Tensor
    fed: Tensor | None


class AttendingDecoder(nn.Module):
    """s_t = LSTM([emb(y_{t-1}); z; o_{t-1}], s_{t-1}), o_t = W_s s_t + W_a a_t, logits V o_t + b.

    a_t is what is read of the source by the scores s_tᵀ W h_i: their softmax's mean of the h_i, or what a program draws
    in its place. o_0 = 0. Since o is linear in s and a, the gates are so too: of o_{t-1} nothing is computed in the
    recurrence, only one product with [a_{t-1}; s_{t-1}] (specification 6), and where a_1..a_T are known all steps are
    one call of an LSTM. With ``order="pre"`` the state *before* the step attends, by s_{t-1}ᵀ W h_i, and a_t stands in
    the place of o_{t-1}. With ``memory_dim=0`` nothing is read and nothing fed.

    Args:
        embedding: of the target's symbols, of width E.
        outcomes: O.
        latent_dim: D, memory_dim: M, hidden_dim: H, output_dim: P, the width of o.
        order: ``post`` or ``pre``.
        layer_norm: whether gates and cell are normalised (:class:`GateNorm`); all steps are then a loop.
        dropout: share of the entries of the embeddings that are dropped.
    """

    def __init__(
        self,
        embedding: nn.Embedding,
        outcomes: int,
        *,
        latent_dim: int,
        memory_dim: int,
        hidden_dim: int,
        output_dim: int,
        order: str = "post",
        layer_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if order not in ORDERS:
            raise UnknownNameError("order of attention", order, ORDERS)
        self.hidden_dim, self.latent_dim, self.memory_dim = hidden_dim, latent_dim, memory_dim
        self.output_dim, self.order = output_dim, order
        self.embedding = embedding
        width = 0 if not memory_dim else memory_dim if order == "pre" else output_dim
        self.cell = lstm_cell(embedding.embedding_dim + latent_dim + width, hidden_dim)
        self.norm = GateNorm(hidden_dim) if layer_norm else None
        self.key = nn.Linear(memory_dim, hidden_dim, bias=False) if memory_dim else None
        self.from_state = nn.Linear(hidden_dim, output_dim, bias=False)
        self.from_memory = nn.Linear(memory_dim, output_dim, bias=False) if memory_dim else None
        self.head = nn.Linear(output_dim, outcomes)
        self.dropout = nn.Dropout(dropout)

    @property
    def attends_before(self) -> bool:
        """Whether the state before a step attends."""
        return self.order == "pre" and self.memory_dim > 0

    @property
    def attends_after(self) -> bool:
        """Whether the state after a step attends."""
        return self.order == "post" and self.memory_dim > 0

    def keys(self, states: Tensor) -> Tensor:
        """W h_i, (R, S, H); without attention nothing, (R, S, 0)."""
        return states[..., :0] if self.key is None else self.key(states)

    def _shares(self) -> tuple[Tensor, ...]:
        """Return what of the input weights belongs to tokens, to z, and to what is fed or read."""
        width = self.embedding.embedding_dim
        sizes = [width, self.latent_dim, self.cell.weight_ih.shape[1] - width - self.latent_dim]
        return self.cell.weight_ih.split(sizes, dim=1)

    def folded(self) -> Folded:
        """Put the linear parts of the recurrence together, once for all steps."""
        last = self._shares()[2]
        if self.from_memory is None:
            return Folded(None, self.cell.weight_hh, None)
        if self.order == "pre":
            return Folded(last, self.cell.weight_hh, None)
        fed = last @ self.from_state.weight
        return Folded(last @ self.from_memory.weight, self.cell.weight_hh + fed, fed)

    def embedded(self, inputs: Tensor) -> Tensor:
        """emb(y_0)..emb(y_{T-1}) (B, T, E) of the tokens fed back (B, T), with what is dropped of them."""
        found: Tensor = self.dropout(self.embedding(inputs))
        return found

    def _gates(self, embedded: Tensor, z: Tensor | None) -> Tensor:
        """Return the share of tokens (B, T, E) and z (B, K, D) in the gates of all steps, (B, K, T, 4H)."""
        of_tokens, of_latent, _ = self._shares()
        gates = F.linear(embedded, of_tokens, self.cell.bias_ih + self.cell.bias_hh).unsqueeze(1)
        return gates if z is None else gates + F.linear(z, of_latent).unsqueeze(2)

    def advance(self, gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Return s_t and c_t from the gates (…, 4H) and c_{t-1}."""
        if self.norm is None:
            return lstm_step(gates, cell)
        found: tuple[Tensor, Tensor] = self.norm(gates, cell)
        return found

    def nothing_fed(self, states: Tensor) -> Tensor:
        """o_0 = 0, (R, P), for sources (R, S, M); nothing, (R, 0), where no output is fed back."""
        return states.new_zeros(len(states), self._shares()[2].shape[1])

    def one(self, embedded: Tensor, z: Tensor, fed: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Return s_t and c_t (R, H) of a step, given emb(y_{t-1}) (R, E), z (R, D) and what is fed (R, P or M)."""
        gates = F.linear(torch.cat([embedded, z, fed], -1), self.cell.weight_ih, self.cell.bias_ih)
        return self.advance(gates + F.linear(hidden, self.cell.weight_hh, self.cell.bias_hh), cell)

    def unroll(
        self,
        embedded: Tensor,
        z: Tensor | None,
        memory: Memory,
        start: Tensor | None,
        attend: Attend = softly,
        particles: int = 1,
    ) -> tuple[Tensor, Tensor]:
        """Return s_1..s_T (B, K, T, H) and a_1..a_T (B, K, T, M), one step after the other.

        Args:
            embedded: of the tokens fed back, (B, T, E).
            z: (B, K, D), or None where there is none.
            memory: of the B sources.
            start: c_0 (B, H), with s_0 = tanh(c_0); None: both are 0.
            attend: what is read, given the scores of a step.
            particles: K, where there is no z to say it.
        """
        folded, keys = self.folded(), memory.keys.transpose(1, 2)
        gates = self._gates(embedded, z)
        gates = gates if z is not None else gates.expand(-1, particles, -1, -1)
        hidden, cell = self._begin(gates, start)
        gates = self._corrected(gates, folded, hidden, start)
        states, readings = [], []
        reading = gates.new_zeros(*gates.shape[:2], self.memory_dim)
        recurrent = folded.of_state if folded.of_memory is None else torch.cat([folded.of_memory, folded.of_state], 1)
        for step in gates.unbind(2):
            if self.attends_before:
                reading = attend(hidden @ keys, memory)
            hidden, cell = self.advance(step + F.linear(torch.cat([reading, hidden], -1), recurrent), cell)
            if self.attends_after:
                reading = attend(hidden @ keys, memory)
            states.append(hidden)
            readings.append(reading)
        return torch.stack(states, 2), torch.stack(readings, 2)

    def along(self, embedded: Tensor, z: Tensor | None, read: Tensor, start: Tensor | None) -> Tensor:
        """Return s_1..s_T (B, K, T, H) given all that is read, a_1..a_T (B, K, T, M): one call of an LSTM.

        The other arguments are those of :meth:`unroll`, which gives the same for what it has read. With normalised
        gates, and where o_0 = 0 is not what the folded weights make of s_0, it is a loop.
        """
        folded = self.folded()
        before = read if self.order == "pre" else F.pad(read, (0, 0, 1, 0))[:, :, :-1]
        if self.norm is None and (start is None or folded.fed is None):
            return self._in_one_call(embedded, z, before, start, folded)
        gates = self._gates(embedded, z)
        hidden, cell = self._begin(gates, start)
        gates = self._corrected(gates, folded, hidden, start)
        if folded.of_memory is not None:
            gates = gates + F.linear(before, folded.of_memory)
        states = []
        for step in gates.unbind(2):
            hidden, cell = self.advance(step + F.linear(hidden, folded.of_state), cell)
            states.append(hidden)
        return torch.stack(states, 2)

    def _in_one_call(
        self, embedded: Tensor, z: Tensor | None, before: Tensor, start: Tensor | None, folded: Folded
    ) -> Tensor:
        of_tokens, of_latent, _ = self._shares()
        particles, steps = before.shape[1:3]
        parts, shares = [embedded.unsqueeze(1).expand(-1, particles, -1, -1)], [of_tokens]
        if z is not None:
            parts, shares = [*parts, z.unsqueeze(2).expand(-1, -1, steps, -1)], [*shares, of_latent]
        if folded.of_memory is not None:
            parts, shares = [*parts, before], [*shares, folded.of_memory]
        joined = torch.cat(parts, -1).flatten(0, 1)
        hidden, cell = (part.flatten(0, 1).unsqueeze(0) for part in self._begin(before, start))
        weights = [torch.cat(shares, 1), folded.of_state, self.cell.bias_ih, self.cell.bias_hh]
        states: Tensor = torch.lstm(joined, (hidden, cell), weights, True, 1, 0.0, self.training, False, True)[0]
        return states.unflatten(0, (-1, particles))

    def _begin(self, gates: Tensor, start: Tensor | None) -> tuple[Tensor, Tensor]:
        if start is None:
            zero = gates.new_zeros(*gates.shape[:2], self.hidden_dim)
            return zero, zero
        cell = start.unsqueeze(1).expand(-1, gates.shape[1], -1)
        return cell.tanh(), cell

    def _corrected(self, gates: Tensor, folded: Folded, hidden: Tensor, start: Tensor | None) -> Tensor:
        """Take what the folded weights make of s_0 as an output out of the first gates: o_0 is 0."""
        if start is None or folded.fed is None:
            return gates
        first = gates[:, :, :1] - F.linear(hidden, folded.fed).unsqueeze(2)
        return torch.cat([first, gates[:, :, 1:]], 2)

    def queries(self, states: Tensor, start: Tensor | None) -> Tensor:
        """Return the states that attend, (B, K, T, H): s_t, or s_{t-1} where attention goes before the step."""
        if self.order == "post":
            return states
        hidden, _ = self._begin(states, start)
        return torch.cat([hidden.unsqueeze(2), states[:, :, :-1]], 2)

    def outputs(self, states: Tensor, read: Tensor) -> Tensor:
        """o_t = W_s s_t + W_a a_t, (…, P)."""
        found: Tensor = self.from_state(states)
        return found if self.from_memory is None else found + self.from_memory(read)

    def outputs_of(self, memory: Memory) -> Tensor:
        """W_a h_i, (R, S, P): what each position of the sources would add to o."""
        if self.from_memory is None:
            raise ValueError("a decoder that reads nothing has no outputs of a memory")
        found: Tensor = self.from_memory(memory.states)
        return found


Logits = Callable[[Tensor, Tensor, Tensor, Memory], Tensor]
"""The logits of a token (R, O), given s_t (R, H), what was read (R, M), the scores (R, S) and the memory."""


class Telling:
    """A decoder of R texts with their sources, token by token (:class:`~ppl_text.core.protocols.Decoder`).

    Args:
        network: of the recurrence.
        memory: of the R sources.
        z: (R, D), or None.
        start: c_0 (R, H), or None.
        attend: what is read of a source, given the scores.
        logits: of the next token.
        path: a_1..a_T (R, T, M), to be read in the place of that; None: nothing is known.
    """

    def __init__(
        self,
        network: AttendingDecoder,
        memory: Memory,
        z: Tensor | None,
        start: Tensor | None,
        attend: Attend,
        logits: Logits,
        path: Tensor | None = None,
    ) -> None:
        self._network, self._memory, self._z, self._start = network, memory, z, start
        self._attend, self._logits, self._path = attend, logits, path

    def begin(self, rows: int) -> State:
        """Return s_0, c_0, o_0, z, how many steps are done, the path and the memory, each (R, …)."""
        states = self._memory.states
        if len(states) != rows:
            raise ValueError(f"decoder: expects {len(states)} rows, as there are sources, got {rows}")
        cell = states.new_zeros(rows, self._network.hidden_dim) if self._start is None else self._start
        z = states.new_zeros(rows, 0) if self._z is None else self._z
        path = states.new_zeros(rows, 0, 0) if self._path is None else self._path
        done = torch.zeros(rows, dtype=torch.long, device=states.device)
        return (cell.tanh(), cell, self._network.nothing_fed(states), z, done, path, *self._memory)

    def step(self, state: State, tokens: Tensor) -> tuple[Tensor, State]:
        """Return the logits (R, O) of what follows ``tokens`` (R,), and the state after them."""
        network, (hidden, cell, fed, z, done, path, *rest) = self._network, state
        memory = Memory(*rest)
        if network.attends_before:
            scores, fed = self._read(hidden, memory, path, done)
            reading = fed
        hidden, cell = network.one(network.embedding(tokens), z, fed, hidden, cell)
        if network.attends_after:
            scores, reading = self._read(hidden, memory, path, done)
            fed = network.outputs(hidden, reading)
        if not network.memory_dim:
            scores = reading = fed
        logits = self._logits(hidden, reading, scores, memory)
        return logits, (hidden, cell, fed, z, done + 1, path, *memory)

    def _read(self, hidden: Tensor, memory: Memory, path: Tensor, done: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scores (R, S) of a state, and what is read (R, M); behind its end a path is read no further."""
        scores = hidden.unsqueeze(1) @ memory.keys.transpose(1, 2)
        if not path.shape[1]:
            return scores.squeeze(1), self._attend(scores, memory).squeeze(1)
        place = done.clamp(max=path.shape[1] - 1).view(-1, 1, 1).expand(-1, 1, path.shape[-1])
        return scores.squeeze(1), path.gather(1, place).squeeze(1)


def laid_out(found: Tensor, lead: torch.Size) -> Tensor:
    """Return (B, K, T, …) as (*lead, B, T, …), K the product of the leading axes."""
    particles = found.transpose(0, 1)
    return particles.unflatten(0, lead) if len(lead) else particles.squeeze(0)


def laid_in(value: Tensor, event: int) -> Tensor:
    """Return a value (*lead, B, *event), with so many ``event`` axes, as (B, K, *event)."""
    return value.unsqueeze(0).flatten(0, value.dim() - event - 1).transpose(0, 1)
