"""A node of ours among BEAMs: what any process of any node can do with it, and what it bears."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from node_support import COOKIE, ELIXIR, EPMD, Beam, Epmd, Node, unique

pytestmark = pytest.mark.skipif(not (ELIXIR and EPMD), reason="needs Elixir and epmd")


@pytest.fixture(scope="module")
def epmd() -> Iterator[Epmd]:
    epmd = Epmd()
    yield epmd
    epmd.stop()


@pytest.fixture(scope="module")
def cookie_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("node") / "cookie"
    path.write_text(COOKIE + "\n")
    path.chmod(0o400)
    return path


@pytest.fixture(scope="module")
def beam(epmd: Epmd) -> Iterator[Beam]:
    beam = Beam(unique("ex"), epmd.port)
    yield beam
    beam.kill()


@pytest.fixture(scope="module", params=["connected to", "dials"])
def name(request: pytest.FixtureRequest, epmd: Epmd, beam: Beam, cookie_file: Path) -> Iterator[str]:
    """A node that the BEAM knows as ``py``: it makes the connection, or the node does."""
    name = unique("py")
    dials = ["--connect", beam.name] if request.param == "dials" else []
    beam.eval(PRELUDE.replace("NODE", name))
    node = Node(epmd.port, cookie_file, "--name", name, *dials, app="handlers_app:app")
    assert node.ready()[0] == name
    if not dials:
        assert beam.eval("Node.connect(py)") == "true"
    assert beam.eval("receive do {:nodeup, ^py, _} -> :up end") == ":up"
    yield name
    node.kill()
    assert beam.eval("receive do {:nodedown, ^py, _} -> :down end") == ":down"
    beam.eval(":net_kernel.monitor_nodes(false, node_type: :all)")


@pytest.fixture(autouse=True)
def _no_message_is_left(beam: Beam, name: str) -> None:
    """Each test begins with the node, and without a message."""
    beam.eval("forget = fn forget -> receive do _ -> forget.(forget) after 0 -> :ok end end; forget.(forget)")


# What the tests below have in common: the node, a call, a request in the background, the next message.
PRELUDE = """
py = :"NODE"
:net_kernel.monitor_nodes(true, node_type: :all)
bridge = {:erl_bridge, py}
call = fn type, payload -> GenServer.call(bridge, %{request_type: type, payload: payload}, 30_000) end
begin = fn id, type, payload ->
  :gen_server.send_request(bridge, %{message_id: id, request_type: type, payload: payload})
end
next = fn -> receive do message -> message after 30_000 -> :nothing end end
in_flight = fn -> {:ok, health} = call.(:health_check, %{}); health.requests_in_flight end
idle = fn idle -> if in_flight.() == 0, do: 0, else: idle.(idle) end
"""


def same(text: str, pattern: str) -> None:
    """Whether the text is as the pattern says, where ``…`` stands for anything."""
    expression = re.escape(pattern).replace("…", ".*")
    assert re.fullmatch(expression, text, re.DOTALL), text


# -- requests --------------------------------------------------------------------------------------------------------


def test_a_node_is_pinged_and_stays_hidden(beam: Beam, name: str) -> None:
    assert beam.eval("Node.ping(py)") == ":pong"
    assert beam.eval("{Node.list(), Node.list(:hidden)}") == f'{{[], [:"{name}"]}}'
    assert beam.eval(":global.sync()") == ":ok"


@pytest.mark.parametrize("term", ["1", "-1.5", '"é"', "<<255>>", ":é", "nil", "[1 | 2]", "{1, [2]}", "%{a: %{1 => 2}}"])
def test_any_term_goes_there_and_back(beam: Beam, term: str) -> None:
    assert beam.eval(f"{{:ok, %{{term: back}}}} = call.(:ping, %{{term: {term}}}); back === {term}") == "true"


def test_what_only_a_node_has_comes_back_too(beam: Beam) -> None:
    code = "terms = [self(), make_ref(), hd(Port.list()), &String.upcase/1, fn x -> x end, MapSet.new([1])]"
    assert beam.eval(f"{code}; call.(:ping, %{{terms: terms}}) === {{:ok, %{{terms: terms}}}}") == "true"


def test_a_large_message_comes_back(beam: Beam) -> None:
    code = "data = :crypto.strong_rand_bytes(3_000_000); call.(:echo_inline, %{d: data}) == {:ok, %{d: data}}"
    assert beam.eval(code) == "true"


def test_handlers_run_where_they_run_with_a_port(beam: Beam) -> None:
    for handler in ("echo_inline", "echo_thread", "echo_job"):
        assert beam.eval(f'call.("{handler}", %{{a: 1}})') == "{:ok, %{a: 1}}"


def test_an_error_is_the_map_of_the_protocol(beam: Beam) -> None:
    same(beam.eval("{:error, e} = call.(:fail_thread, %{}); {e.error_type, e.message}"),
         '{:python_runtime_error, "ValueError: no such thing"}')  # fmt: skip
    same(beam.eval("{:error, e} = call.(:nothing, %{}); e.error_type"), ":unknown_request")
    same(beam.eval("{:error, e} = GenServer.call(bridge, :hello); {e.error_type, e.message}"),
         '{:invalid_request, "request: expected a map, got :hello"}')  # fmt: skip


def test_a_result_that_is_no_term_is_an_error_and_costs_nothing_else(beam: Beam) -> None:
    same(beam.eval("{:error, e} = call.(:unsendable_thread, %{}); e.error_type"), ":serialization_error")
    assert beam.eval("call.(:ping, %{n: 1})") == "{:ok, %{n: 1}}"


def test_a_deadline_in_the_metadata_holds(beam: Beam) -> None:
    # One that has not begun by then tells of no event, and has more time the next time.
    beam.eval("""
    expire = fn expire, timeout ->
      request = %{request_type: :wait_for_release, metadata: %{timeout_ms: timeout}}
      {:error, e} = GenServer.call(bridge, request, 60_000)
      receive do event -> {e.error_type, event} after 0 -> expire.(expire, 2 * timeout) end
    end
    """)
    assert beam.eval("expire.(expire, 50)").startswith("{:timeout_error, {:erl_bridge, #Reference<")


def test_events_go_to_the_caller_with_the_id_of_the_request(beam: Beam) -> None:
    beam.eval('ref = begin.("id", :wait_for_release, %{})')
    same(beam.eval("next.()"), '{:erl_bridge, "id", {:event, %{…}}}')
    assert beam.eval('call.(:cancel, %{message_id: "id"})') == "{:ok, %{cancelled: true}}"
    same(beam.eval("{:reply, {:error, e}} = :gen_server.wait_response(ref, 30_000); e.error_type"), ":cancelled")


def test_python_calls_a_function_of_the_caller(beam: Beam) -> None:
    beam.eval("ref = begin.(7, :ask_thread, %{~s(n) => 21})")
    same(beam.eval("{:erl_bridge, 7, {:call, call_id, ~s(double), [21]}} = next.()"), "{:erl_bridge, 7, {:call, …}}")
    result = "%{request_type: :callback_result, payload: %{call_id: call_id, result: {:ok, 42}}}"
    assert beam.eval(f"GenServer.cast(bridge, {result})") == ":ok"
    assert beam.eval(":gen_server.wait_response(ref, 30_000)") == "{:reply, {:ok, 42}}"
    assert beam.eval("call.(:callback_result, %{call_id: call_id, result: {:ok, 42}})") == "{:ok, %{accepted: false}}"


def test_a_plain_message_is_a_request_whose_answer_is_a_plain_message(beam: Beam) -> None:
    beam.eval("send(bridge, %{message_id: :mine, request_type: :ping, payload: %{a: 1}})")
    assert beam.eval("next.()") == "{:erl_bridge, :mine, {:ok, %{a: 1}}}"
    beam.eval("send(bridge, %{request_type: :ping})")
    same(beam.eval("next.()"), "{:erl_bridge, nil, {:error, %{…the required key message_id is missing…}}}")


def test_a_cast_is_served_and_nothing_comes_back(beam: Beam) -> None:
    beam.eval("GenServer.cast(bridge, %{request_type: :ask_thread, payload: %{~s(n) => 1}})")
    beam.eval("GenServer.cast(bridge, :nonsense); send(bridge, :nonsense)")
    assert beam.eval("idle.(idle)") == "0"
    assert beam.eval("call.(:ping, %{}); receive do message -> message after 0 -> :nothing end") == ":nothing"


def test_two_requests_in_flight_must_not_share_an_id_but_those_of_two_processes_may(beam: Beam) -> None:
    beam.eval("first = begin.(1, :wait_for_release, %{}); next.(); second = begin.(1, :wait_for_release, %{})")
    same(
        beam.eval("{:reply, {:error, e}} = :gen_server.wait_response(second, 30_000); e.error_type"), ":invalid_request"
    )
    beam.eval("other = Task.async(fn -> begin.(1, :wait_for_release, %{}); next.() end); Task.await(other)")
    assert beam.eval("call.(:cancel, %{message_id: 1})") == "{:ok, %{cancelled: true}}"
    same(beam.eval("{:reply, {:error, e}} = :gen_server.wait_response(first, 30_000); e.error_type"), ":cancelled")
    assert beam.eval("idle.(idle)") == "0"  # the task has ended, and its request with it


def test_the_requests_of_a_caller_that_dies_are_cancelled(beam: Beam) -> None:
    beam.eval(
        "pid = spawn(fn -> begin.(1, :wait_for_release, %{}); begin.(2, :hang_job, %{}); Process.sleep(:infinity) end)"
    )
    beam.eval("wait = fn wait -> if in_flight.() < 2, do: wait.(wait) end; wait.(wait)")
    beam.eval("Process.exit(pid, :kill)")
    assert beam.eval("idle.(idle)") == "0"


def test_a_forwarded_call_is_answered_to_the_one_that_waits(beam: Beam) -> None:
    beam.eval("pid = spawn(fn -> receive do call -> send(bridge, call) end; Process.sleep(:infinity) end)")
    assert beam.eval("GenServer.call(pid, %{request_type: :ping, payload: %{a: 1}})") == "{:ok, %{a: 1}}"


def test_calls_to_many_nodes_at_once_are_answered(beam: Beam, name: str) -> None:
    code = "GenServer.multi_call([py], :erl_bridge, %{request_type: :ping, payload: %{a: 1}}, 30_000)"
    assert beam.eval(code) == f'{{["{name}": {{:ok, %{{a: 1}}}}], []}}'


# -- processes ---------------------------------------------------------------------------------------------------------


def test_a_name_that_is_not_there_is_known_at_once(beam: Beam) -> None:
    same(beam.eval("GenServer.call({:nobody, py}, 1, :infinity)"), "** {:exit, {:noproc, …}}")
    same(beam.eval("Process.monitor({:nobody, py}); next.()"), "{:DOWN, …, :process, {:nobody, …}, :noproc}")


def test_a_monitor_and_a_link_hear_of_the_end_of_the_process_which_begins_anew(beam: Beam, name: str) -> None:
    same(beam.eval("pid = :erpc.call(py, :erlang, :whereis, [:erl_bridge])"), "#PID<…>")
    beam.eval("Process.flag(:trap_exit, true); Process.link(pid); by_pid = Process.monitor(pid)")
    beam.eval("by_name = Process.monitor(bridge); Process.exit(pid, :shutdown)")
    assert beam.eval(":erpc.call(py, :erlang, :is_process_alive, [pid])") == "true"
    beam.eval("Process.exit(pid, :kill); messages = for _ <- 1..3, do: next.()")
    assert beam.eval("{:EXIT, pid, :killed} in messages") == "true"
    assert beam.eval("{:DOWN, by_pid, :process, pid, :killed} in messages") == "true"
    assert beam.eval("{:DOWN, by_name, :process, bridge, :killed} in messages") == "true"
    assert beam.eval("call.(:ping, %{a: 1})") == "{:ok, %{a: 1}}"
    same(beam.eval("GenServer.call(pid, 1)"), "** {:exit, {:noproc, …}}")


def test_to_stop_the_process_is_to_have_it_begin_anew(beam: Beam) -> None:
    beam.eval("Process.monitor(bridge)")
    assert beam.eval("GenServer.stop(bridge, :shutdown)") == ":ok"
    same(beam.eval("next.()"), "{:DOWN, …, :process, {:erl_bridge, …}, :shutdown}")
    assert beam.eval("call.(:ping, %{a: 1})") == "{:ok, %{a: 1}}"
    same(beam.eval(":sys.get_state(bridge)"), "…{:error, :notsup}")


def test_a_monitor_and_a_link_that_are_undone_are_silent(beam: Beam) -> None:
    beam.eval("pid = :erpc.call(py, :erlang, :whereis, [:erl_bridge])")
    beam.eval("ref = Process.monitor(pid); Process.link(pid); Process.demonitor(ref); Process.unlink(pid)")
    beam.eval("Process.exit(pid, :kill); Process.monitor(bridge)")
    assert beam.eval("call.(:ping, %{a: 1}); receive do message -> message after 0 -> :nothing end") == ":nothing"


def test_a_process_that_dies_with_a_link_to_the_node_leaves_it_as_it_is(beam: Beam) -> None:
    beam.eval("pid = :erpc.call(py, :erlang, :whereis, [:erl_bridge])")
    assert beam.eval("spawn_monitor(fn -> Process.link(pid); exit(:why) end); elem(next.(), 4)") == ":why"
    assert beam.eval(":erpc.call(py, :erlang, :is_process_alive, [pid])") == "true"


def test_signals_of_a_process_that_is_traced_are_understood(beam: Beam) -> None:
    beam.eval("pid = :erpc.call(py, :erlang, :whereis, [:erl_bridge])")
    beam.eval("""traced = Task.async(fn ->
      :seq_trace.set_token(:send, true)
      send(bridge, %{message_id: 1, request_type: :ping})
      send(pid, %{message_id: 2, request_type: :ping})
      replies = for id <- [1, 2], do: receive(do: ({:erl_bridge, ^id, reply} -> reply))
      {replies, call.(:ping, %{a: 1}), :erpc.call(py, :erlang, :node, [])}
    end)""")
    assert beam.eval("Task.await(traced, 30_000) == {[ok: %{}, ok: %{}], {:ok, %{a: 1}}, py}") == "true"
    beam.eval("""spawn_monitor(fn ->
      :seq_trace.set_token(:send, true)
      Process.link(pid)
      begin.(1, :wait_for_release, %{})
      exit(:why)
    end)""")
    assert beam.eval("receive(do: ({:DOWN, _, :process, _, reason} -> reason))") == ":why"
    assert beam.eval("idle.(idle)") == "0"
    assert beam.eval(":erpc.call(py, :erlang, :is_process_alive, [pid])") == "true"


def test_a_process_of_the_node_is_no_group_leader_and_bears_to_be_asked(beam: Beam) -> None:
    beam.eval("pid = :erpc.call(py, :erlang, :whereis, [:erl_bridge])")
    assert beam.eval("spawn(fn -> Process.group_leader(pid, self()) end); call.(:ping, %{a: 1})") == "{:ok, %{a: 1}}"
    beam.eval(":erlang.group_leader(self(), pid)")
    assert beam.eval("call.(:ping, %{a: 1})") == "{:ok, %{a: 1}}"


def test_what_a_killed_process_had_begun_is_cancelled(beam: Beam) -> None:
    beam.eval("ref = begin.(1, :wait_for_release, %{}); next.()")
    beam.eval("Process.exit(:erpc.call(py, :erlang, :whereis, [:erl_bridge]), :kill)")
    same(beam.eval(":gen_server.wait_response(ref, 30_000)"), "{:error, {:killed, …}}")
    assert beam.eval("idle.(idle)") == "0"


# -- rpc ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rpc", [":erpc", ":rpc"])
def test_functions_of_the_allow_list_may_be_called(beam: Beam, name: str, rpc: str) -> None:
    assert beam.eval(f"{rpc}.call(py, :erlang, :node, [])") == f':"{name}"'
    request = "%{request_type: :echo_thread, payload: %{a: 1}}"
    assert beam.eval(f"{rpc}.call(py, :erl_bridge, :call, [{request}])") == "{:ok, %{a: 1}}"
    same(beam.eval(f"{rpc}.call(py, :erl_bridge, :info, []).request_types |> Enum.member?(:ping)"), "true")
    assert beam.eval(f"Enum.sort({rpc}.call(py, :erlang, :registered, []))") == "[:erl_bridge, :net_kernel, :rex]"


def test_other_functions_may_not(beam: Beam) -> None:
    assert beam.eval(":rpc.call(py, :os, :cmd, ['id'])").startswith("{:badrpc, {:EXIT, {:undef, [{:os, :cmd, [")
    same(beam.eval(":erpc.call(py, :os, :cmd, ['id'])"), "** {:error, {:exception, :undef, […]}}")
    assert beam.eval(":erpc.cast(py, :os, :cmd, ['id'])") == ":ok"
    assert beam.eval(":erpc.multicall([py], :erlang, :node, []) |> Enum.map(&elem(&1, 0))") == "[:ok]"


def test_nothing_is_spawned(beam: Beam) -> None:
    same(beam.eval("Node.spawn_monitor(py, fn -> 1 end)"), "** {:error, :notsup}")
    same(beam.eval("Node.spawn(py, :os, :cmd, ['id'])"), "#PID<…>")  # of a process here that has ended


def test_the_rpc_of_old_nodes_is_answered(beam: Beam, name: str) -> None:
    beam.eval("send({:rex, py}, {self(), {:call, :erlang, :node, [], :user}})")
    assert beam.eval("next.()") == f'{{:rex, :"{name}"}}'
    assert beam.eval("GenServer.call({:rex, py}, {:call, :erlang, :node, [], :user})") == f':"{name}"'


def test_the_caller_of_an_rpc_that_gives_up_leaves_nothing(beam: Beam) -> None:
    request = "%{request_type: :wait_for_release, payload: %{}}"
    same(beam.eval(f"spawn_monitor(fn -> :erpc.call(py, :erl_bridge, :call, [{request}], 50) end); next.()"),
         "{:DOWN, …, :process, …, …timeout…}")  # fmt: skip
    assert beam.eval("idle.(idle)") == "0"


# -- from Python to other processes ------------------------------------------------------------------------------------

SHOP = """
defmodule Shop do
  use GenServer
  def init(_), do: {:ok, 0}
  def handle_call({:add, n}, _, total), do: {:reply, {:total, total + n}, total + n}
  def handle_call(:die, _, _), do: exit(:broken)
  def handle_call(:wait, _, total), do: {:noreply, total}
end
{:ok, shop} = GenServer.start(Shop, 0, name: :shop)
"""


@pytest.fixture(scope="module")
def shop(beam: Beam) -> Beam:
    beam.eval("Logger.configure(level: :none)")
    beam.eval(SHOP)
    return beam


@pytest.mark.parametrize("handler", ["node_call_thread", "node_call_job"])
def test_a_handler_calls_a_process_by_its_pid_its_name_and_its_node(shop: Beam, handler: str) -> None:
    shop.eval("{:total, before} = GenServer.call(:shop, {:add, 0})")
    for to in ("shop", ":shop", '"shop"', "{:shop, node()}", '{"shop", to_string(node())}'):
        code = (
            f"{{:ok, {{:total, n}}}} = call.(:{handler}, %{{~s(to) => {to}, ~s(message) => {{:add, 1}}}}); n - before"
        )
        assert shop.eval(code + "; before = n; 1").startswith("1")
    assert shop.eval("GenServer.call(:shop, {:add, 0}) == {:total, before}") == "true"


@pytest.mark.parametrize("handler", ["node_call_thread", "node_call_job"])
@pytest.mark.parametrize(
    ("to", "message", "reason"),
    [
        (":nobody", ":x", ":noproc"),
        ("{:shop, :nowhere@nowhere}", ":x", ":noconnection"),
        ("spawn(fn -> :ok end)", ":x", ":noproc"),
        (":shop", ":wait", ":timeout"),
    ],
)
def test_a_call_that_fails_says_why(shop: Beam, handler: str, to: str, message: str, reason: str) -> None:
    timeout = 20 if message == ":wait" else 20_000
    code = f"call.(:{handler}, %{{~s(to) => {to}, ~s(message) => {message}, ~s(timeout_ms) => {timeout}}})"
    assert shop.eval(f"{{:error, e}} = {code}; {{e.error_type, e.context.reason}}") == f"{{:callback_error, {reason}}}"


def test_a_call_to_a_process_that_dies_says_what_it_died_of(shop: Beam) -> None:
    shop.eval("{:ok, other} = GenServer.start(Shop, 0)")
    code = "{:error, e} = call.(:node_call_thread, %{~s(to) => other, ~s(message) => :die}); e.context.reason"
    assert shop.eval(code) == ":broken"


@pytest.mark.parametrize("handler", ["node_send_thread", "node_send_job"])
def test_a_handler_sends_to_a_process(shop: Beam, handler: str) -> None:
    shop.eval("Process.register(self(), :tester)")
    for to in ("self()", ":tester", "{:tester, node()}"):
        assert shop.eval(f"call.(:{handler}, %{{~s(to) => {to}, ~s(message) => {{:hi, 1.5}}}})") == '{:ok, "sent"}'
        assert shop.eval("next.()") == "{:hi, 1.5}"
    shop.eval("Process.unregister(:tester)")
    code = f"{{:error, e}} = call.(:{handler}, %{{~s(to) => 7, ~s(message) => 1}}); e.message"
    assert shop.eval(code) == '"send to 7 failed: to: expected a pid, a name, or a name and a node, got 7"'


def test_nothing_is_left_of_what_is_over(beam: Beam) -> None:
    assert beam.eval("idle.(idle)") == "0"


# -- datasets --------------------------------------------------------------------------------------------------------


def test_a_dataset_is_sent_by_calls_and_read_by_a_job(
    epmd: Epmd, cookie_file: Path, beam: Beam, tmp_path: Path
) -> None:
    with_store = Node(
        epmd.port, cookie_file, "--name", unique("py"), app="handlers_app:app", ERL_BRIDGE_HOME=str(tmp_path)
    )
    try:
        beam.eval(f"""
        store = {{:erl_bridge, :"{with_store.ready()[0]}"}}
        ask = fn type, payload -> GenServer.call(store, %{{request_type: type, payload: payload}}, 30_000) end
        batch = :erlang.term_to_binary(for n <- 1..1000, do: %{{"id" => n, text: "row", label: :of_a_row}})
        <<first::binary-size(9_000), second::binary>> = <<byte_size(batch)::32, batch::binary>>
        """)
        assert beam.eval("{:ok, %{received: []}} = ask.(:dataset_begin, %{transfer_id: <<255>>}); :begun") == ":begun"
        last = "%{transfer_id: <<255>>, chunk_index: 1, data: second, is_final: true}"
        assert beam.eval(f"ask.(:data_chunk, {last})") == "{:ok, %{next: 0, received: 1}}"
        answer = "ask.(:data_chunk, %{transfer_id: <<255>>, chunk_index: 0, data: first})"
        assert beam.eval(f"{{:ok, %{{dataset_id: id, rows: rows}}}} = {answer}; rows") == "1000"
        assert beam.eval('{:ok, held} = ask.(:rows_job, %{"rows" => %{dataset: id}}); held') == (
            '%{"count" => 1000, "first" => %{:label => :of_a_row, :text => "row", "id" => 1}, '
            '"last" => %{:label => :of_a_row, :text => "row", "id" => 1000}, "sum" => 500500}'
        )
    finally:
        with_store.kill()
