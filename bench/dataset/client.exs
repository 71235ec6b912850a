# Measures how rows get from a list of the BEAM into a Python process:
#
#     elixir -pa EBIN client.exs race ROUNDS ROWS      name, seconds of each round
#     elixir -pa EBIN client.exs peak NAME ROWS        MB of the BEAM: idle, with the list, at most while it was sent
#     elixir -pa EBIN client.exs compress ROUNDS ROWS  name, bytes sent, seconds of each round
#     elixir -pa EBIN client.exs again ROWS            what the second sending costs
#     elixir -pa EBIN client.exs crossing ROUNDS       rows, their bytes, best milliseconds: in the request, as a dataset
#     elixir -pa EBIN client.exs stream ROWS           rows, seconds, MB of the BEAM and of Python, for each slice
#     elixir -pa EBIN client.exs health ROWS           milliseconds of health checks, idle and during a transfer
#
# Lines of tab-separated fields. PEER_ECHO is the compiled bench/port/echo.c.
defmodule Rows do
  @labels {:billing, :technical, :other}

  def list(count, round), do: Enum.map(from(round)..(from(round) + count - 1), &row/1)
  def stream(count, round), do: Stream.map(from(round)..(from(round) + count - 1), &row/1)

  # No two rounds have a row in common.
  defp from(round), do: round * 10_000_000

  # A question of 80 bytes and an answer of 20, of a few words each, so that they compress like text.
  defp row(n) do
    %{
      question: text(n, 80),
      answer: text(n * 7 + 1, 20),
      label: elem(@labels, rem(n, 3)),
      id: n,
      score: n / 7
    }
  end

  @words List.to_tuple(~w(the invoice is wrong paid twice app crashes login fails on linux why does
                          report show old numbers since last update cannot open file refund order))

  defp text(n, size),
    do: binary_part(words(:erlang.phash2(n, 1_000_000_007), size, [Integer.to_string(n)]), 0, size)

  defp words(seed, left, said) when left > 0 do
    word = elem(@words, rem(seed, tuple_size(@words)))
    words(:erlang.phash2(seed, 1_000_000_007), left - byte_size(word) - 1, [said, " ", word])
  end

  defp words(_seed, _left, said), do: IO.iodata_to_binary([said, "                    "])
end

# What Jason does: iodata, strings copied in one piece as long as nothing in them is escaped.
defmodule Json do
  if Code.ensure_loaded?(:json) do
    def encode(term), do: IO.iodata_to_binary(apply(:json, :encode, [term]))
  else
    def encode(term), do: IO.iodata_to_binary(value(term))
  end

  def value(term) when is_binary(term), do: [?", string(term, term, 0), ?"]
  def value(term) when is_integer(term), do: Integer.to_string(term)
  def value(term) when is_float(term), do: :io_lib_format.fwrite_g(term)
  def value(nil), do: "null"
  def value(true), do: "true"
  def value(false), do: "false"
  def value(term) when is_atom(term), do: value(Atom.to_string(term))
  def value([]), do: "[]"
  def value([first | rest]), do: [?[, value(first), for(term <- rest, do: [?,, value(term)]), ?]]

  def value(map) when is_map(map) do
    [first | rest] = for {key, value} <- map, do: [value(key), ?:, value(value)]
    [?{, first, for(pair <- rest, do: [?,, pair]), ?}]
  end

  defp string(<<byte, rest::binary>>, whole, size) when byte >= 32 and byte not in [?", ?\\],
    do: string(rest, whole, size + 1)

  defp string(<<>>, whole, _size), do: whole

  defp string(<<byte, rest::binary>>, whole, size),
    do: [binary_part(whole, 0, size), escape(byte), string(rest, rest, 0)]

  defp escape(byte), do: :io_lib.format("\\u~4.16.0b", [byte])
end

defmodule Systems do
  @chunk 1_048_576

  def names, do: ["design", "erl_bridge", "C swallows", "Python swallows"]

  # A function that sends rows, until Python has them all.
  def open("erl_bridge") do
    bridge = bridge()

    fn rows ->
      dataset = ErlBridge.put_dataset!(bridge, rows)
      ref = ErlBridge.Dataset.ref(dataset)
      ErlBridge.call!(bridge, :hold, %{"rows" => ref}, timeout: :infinity)
    end
  end

  # The design's own: all as JSON, compressed whole, cut, and each piece sent as Base64 in JSON and
  # answered before the next.
  def open("design") do
    port = port([System.fetch_env!("ERL_BRIDGE_PYTHON"), peer(), "design"])

    fn rows ->
      compressed = rows |> Json.encode() |> :zlib.compress()
      last = div(byte_size(compressed) - 1, @chunk)

      for index <- 0..last do
        size = min(@chunk, byte_size(compressed) - index * @chunk)
        data = Base.encode64(binary_part(compressed, index * @chunk, size))
        message = %{type: :data_chunk, chunk_index: index, data: data, is_final: index == last}
        ask(port, Json.encode(message))
      end
      |> List.last()
      |> String.to_integer()
    end
  end

  # The floor: the same bytes as one frame, to a program that reads them and does nothing.
  def open("C swallows"), do: swallower([System.fetch_env!("PEER_ECHO"), "in"])

  def open("Python swallows"),
    do: swallower([System.fetch_env!("ERL_BRIDGE_PYTHON"), peer(), "swallow"])

  def bridge(options \\ []) do
    usual = [app: "bench_app:app", cd: __DIR__, preload: false, args: ["--no-dspy"]]
    {:ok, bridge} = ErlBridge.start_link(Keyword.merge(usual, options))
    # The process that jobs are forked from starts with the first one.
    ErlBridge.call!(bridge, :hold, %{"rows" => [%{n: 1}]})
    bridge
  end

  defp swallower(command) do
    port = port(command)

    fn rows ->
      ask(port, :erlang.term_to_binary(rows))
      length(rows)
    end
  end

  defp port([program | arguments]),
    do: Port.open({:spawn_executable, program}, [:binary, {:packet, 4}, args: arguments])

  defp ask(port, frame) do
    Port.command(port, frame)
    receive(do: ({^port, {:data, answer}} -> answer))
  end

  defp peer, do: Path.join(__DIR__, "peer.py")
end

defmodule Client do
  def main(["race", rounds, count]) do
    count = number(count)
    systems = for name <- Systems.names(), do: {name, Systems.open(name)}

    # A round to warm up.
    found =
      for round <- 0..number(rounds), {name, run} <- systems do
        {name, timed(fn -> Rows.list(count, round) end, run, count)}
      end

    for {name, _run} <- systems do
      [_warm | times] = for {^name, time} <- found, do: time
      line([name | times])
    end
  end

  def main(["peak", name, count]) do
    run = Systems.open(name)
    run.(Rows.list(1_000, 1))
    tidy()
    idle = memory("VmRSS")
    rows = Rows.list(number(count), 2)
    tidy()
    before = memory("VmRSS")
    # The peak is counted from here on.
    File.write!("/proc/self/clear_refs", "5")
    run.(rows)
    line([name, idle, before, memory("VmHWM")])
  end

  def main(["compress", rounds, count]) do
    bridge = Systems.bridge()
    count = number(count)
    kinds = [:none, zlib: 1, zlib: 6] ++ if(Code.ensure_loaded?(:zstd), do: [zstd: 1], else: [])

    found =
      for round <- 1..number(rounds), {kind, at} <- Enum.with_index(kinds) do
        put = &ErlBridge.put_dataset!(bridge, &1, options(kind))
        key = 100 + round * length(kinds) + at
        {kind, timed(fn -> Rows.list(count, key) end, put, & &1.sent_bytes)}
      end

    for kind <- kinds do
      mine = for {^kind, {time, bytes}} <- found, do: {time, bytes}
      {_time, bytes} = hd(mine)
      line([name(kind), bytes | Enum.map(mine, &elem(&1, 0))])
    end
  end

  def main(["crossing", rounds]) do
    bridge = Systems.bridge()
    counts = [100, 300, 1_000, 3_000, 10_000, 30_000, 100_000]

    for {count, at} <- Enum.with_index(counts) do
      found =
        for round <- 1..number(rounds), {way, run} <- ways(bridge) do
          rows = Rows.list(count, 500 + 20 * at + round)
          tidy()
          begin = now()
          ^count = run.(rows)
          first = now()
          ^count = run.(rows)
          {way, {(first - begin) / 1.0e6, (now() - first) / 1.0e6}}
        end

      times =
        for {way, _run} <- ways(bridge), part <- [0, 1] do
          Enum.min(for {^way, times} <- found, do: elem(times, part))
        end

      line([count, :erlang.external_size(Rows.list(count, 500)) | times])
    end
  end

  def main(["again", count]) do
    bridge = Systems.bridge()
    rows = Rows.list(number(count), 200)

    for what <- ["first", "second"] do
      {time, bytes} =
        timed(fn -> rows end, &ErlBridge.put_dataset!(bridge, &1), & &1.sent_bytes)

      line([what, bytes, time])
    end
  end

  def main(["stream", count]) do
    bridge = Systems.bridge()
    {:ok, %{os_pid: python}} = ErlBridge.hello(bridge)
    tidy()
    began = now()
    line([0, 0.0, memory("VmRSS"), memory("VmRSS", python)])

    tell = fn event ->
      line([event.done, (now() - began) / 1.0e9, memory("VmRSS"), memory("VmRSS", python)])
    end

    rows = Rows.stream(number(count), 300)
    dataset = ErlBridge.put_dataset!(bridge, rows, on_progress: tell)
    line(["peak", dataset.sent_bytes, memory("VmHWM"), memory("VmHWM", python)])
  end

  def main(["health", count]) do
    bridge = Systems.bridge()
    line(["idle" | checks(bridge, fn done -> done < 1_000 end)])
    rows = Rows.stream(number(count), 400)
    task = Task.async(fn -> ErlBridge.put_dataset!(bridge, rows) end)
    line(["transfer" | checks(bridge, fn _done -> Task.yield(task, 0) == nil end)])
  end

  # What a request does with rows that are few, and with those that are many.
  defp ways(bridge) do
    hold = &ErlBridge.call!(bridge, :hold, %{"rows" => &1}, timeout: :infinity)
    put = &ErlBridge.put_dataset!(bridge, &1, digest: :first)
    [request: hold, dataset: &hold.(ErlBridge.Dataset.ref(put.(&1)))]
  end

  defp checks(bridge, go_on?, done \\ 0) do
    if go_on?.(done) do
      begin = now()
      {:ok, :healthy} = ErlBridge.health_check(bridge)
      time = now() - begin
      Process.sleep(2)
      [time / 1.0e6 | checks(bridge, go_on?, done + 1)]
    else
      []
    end
  end

  # Seconds; and what `also` makes of the result, or only that it is right.
  defp timed(make, run, also) do
    rows = make.()
    tidy()
    begin = now()
    result = run.(rows)
    time = (now() - begin) / 1.0e9
    if is_function(also), do: {time, also.(result)}, else: (^also = result) && time
  end

  defp tidy, do: Enum.each(Process.list(), &:erlang.garbage_collect/1)

  defp options(:none), do: [compression: :none]
  defp options({kind, level}), do: [compression: kind, level: level]

  defp name(:none), do: "none"
  defp name({kind, level}), do: "#{kind} #{level}"

  defp memory(field, os_pid \\ "self") do
    [_, kb] = Regex.run(~r/#{field}:\s+(\d+) kB/, File.read!("/proc/#{os_pid}/status"))
    String.to_integer(kb) / 1024
  end

  defp number(text), do: String.to_integer(text)
  defp now, do: System.monotonic_time(:nanosecond)
  defp line(fields), do: IO.puts(Enum.join(fields, "\t"))
end

Application.ensure_all_started(:erl_bridge)
Client.main(System.argv())
System.halt(0)
