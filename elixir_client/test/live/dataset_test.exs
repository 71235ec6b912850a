defmodule ErlBridge.DatasetLiveTest.SmallDisk do
  @moduledoc "A file system of 2 MB in memory, where this user may mount one."

  def mount(folder), do: run("mount", ["-t", "tmpfs", "-o", "size=2m", "tmpfs", folder])
  def unmount(folder), do: run("umount", ["--lazy", folder])

  @doc "Why there is none, or false."
  def missing do
    folder = Path.join(System.tmp_dir!(), "erl_bridge-#{System.unique_integer([:positive])}")
    File.mkdir_p!(folder)
    {said, status} = mount(folder)
    if status == 0, do: unmount(folder)
    File.rmdir(folder)
    status != 0 and "no file system can be mounted here: #{said}"
  end

  defp run(command, arguments), do: System.cmd(command, arguments, stderr_to_stdout: true)
end

defmodule ErlBridge.DatasetLiveTest do
  @moduledoc "Datasets that the real Python receives and keeps, each test in a folder of its own."
  use ExUnit.Case, async: true

  import ErlBridge.Live, only: [tmp_dir: 1]

  alias __MODULE__.SmallDisk
  alias ErlBridge.{DataFile, Dataset, Error, Live, OsProcess, Telemetry}
  alias ErlBridge.Dataset.Batches

  @no_disk SmallDisk.missing()

  setup :tmp_dir

  defp start!(tmp_dir, options \\ []),
    do: tmp_dir |> options() |> Keyword.merge(options) |> Live.start!()

  defp options(tmp_dir), do: [env: [{"ERL_BRIDGE_HOME", tmp_dir}], args: ["--no-dspy"]]

  defp rows(count, text \\ "some text") do
    first = System.unique_integer([:positive]) * 1_000_000
    for n <- first..(first + count - 1)//1, do: %{"n" => n, text: text, label: :technical}
  end

  defp held(bridge, rows) do
    rows = if is_struct(rows, Dataset), do: Dataset.ref(rows), else: rows
    ErlBridge.call!(bridge, :rows, %{"rows" => rows})
  end

  defp sum(rows), do: rows |> Enum.map(& &1["n"]) |> Enum.sum()

  defp open_transfers(bridge),
    do: ErlBridge.dataset_store(bridge) |> elem(1) |> Map.get(:transfers)

  # Where a transfer is when its row number `at` is asked for: the test is told, and it waits.
  defp pausing(rows, at) do
    test = self()

    rows
    |> Stream.with_index()
    |> Stream.map(fn {row, index} ->
      if index == at do
        send(test, {:paused, self()})
        receive(do: (:go_on -> :ok))
      end

      row
    end)
  end

  defp put_paused(bridge, rows, at, options \\ []) do
    rows = pausing(rows, at)
    task = Task.async(fn -> ErlBridge.put_dataset(bridge, rows, small() ++ options) end)
    pid = task.pid
    assert_receive {:paused, ^pid}
    task
  end

  defp go_on(task) do
    send(task.pid, :go_on)
    Task.await(task, :infinity)
  end

  defp small, do: [chunk_bytes: 4_096, window: 3]

  # A chunk that Python handles until `let_go/1`: it came too early, and what it is written to is a
  # pipe that is full and that nobody reads until then.
  defp hold_up(bridge, tmp_dir) do
    ErlBridge.call!(bridge, :dataset_begin, %{transfer_id: "held"})
    [folder] = Path.wildcard(Path.join([tmp_dir, "datasets", "transfers", "*"]))
    pipe = Path.join(folder, "new")
    {"", 0} = System.cmd("mkfifo", [pipe])
    chunk = %{transfer_id: "held", chunk_index: 1, data: :binary.copy(<<0>>, 1_048_576)}
    task = Task.async(fn -> ErlBridge.call(bridge, :data_chunk, chunk) end)
    # The shell opens the pipe when somebody writes to it.
    script = "exec 3<\"$0\"; echo opened; read go; cat <&3 >/dev/null"
    port = Port.open({:spawn_executable, "/bin/sh"}, [:binary, args: ["-c", script, pipe]])
    assert_receive {^port, {:data, "opened\n"}}
    {task, port}
  end

  defp let_go({task, port}) do
    Port.command(port, "\n")
    assert {:ok, %{received: 1, next: 0}} = Task.await(task, :infinity)
  end

  # A transfer is a folder with its files.
  defp nothing_left?(bridge, tmp_dir) do
    open_transfers(bridge) == 0 and
      Path.wildcard(Path.join([tmp_dir, "datasets", "transfers", "*"])) == []
  end

  describe "put_dataset" do
    test "gives a job process the rows, for every enumerable and compression", %{tmp_dir: tmp_dir} do
      bridge = start!(tmp_dir)
      rows = rows(5_000)

      for {rows, kind} <- [
            {rows, :auto} | Enum.map(kinds(bridge), &{Stream.map(rows, fn row -> row end), &1})
          ],
          options <- [[], small()] do
        assert {:ok, dataset} =
                 ErlBridge.put_dataset(bridge, rows, [compression: kind] ++ options)

        assert %Dataset{rows: 5_000, dataset_id: id} = dataset
        assert id == Batches.digest(rows, 1_000)
      end

      dataset = ErlBridge.put_dataset!(bridge, rows)
      last = List.last(rows)
      assert %{"count" => 5_000, "sum" => sum, "last" => ^last} = held(bridge, dataset)
      assert sum == sum(rows)
      assert {:ok, ^dataset} = ErlBridge.get_dataset(bridge, dataset)
      assert {:ok, %{datasets: 1, transfers: 0}} = ErlBridge.dataset_store(bridge)

      empty = ErlBridge.put_dataset!(bridge, [])
      assert %{"count" => 0} = held(bridge, empty)
      assert Live.mailbox() == []
    end

    test "sends nothing the second time, nor does another bridge of the host", %{tmp_dir: tmp_dir} do
      bridge = start!(tmp_dir)
      rows = rows(5_000)
      %{sent_bytes: sent} = first = ErlBridge.put_dataset!(bridge, rows)
      assert sent > first.bytes

      test = self()
      tell = fn _event, numbers, about, _ -> send(test, {:chunk, numbers, about}) end
      :ok = Telemetry.attach({__MODULE__, test}, [:erl_bridge, :transfer, :chunk], tell, nil)
      on_exit(fn -> Telemetry.detach({__MODULE__, test}) end)

      {:ok, other} = start_supervised({ErlBridge, Live.options(options(tmp_dir))}, id: :other)

      for bridge <- [bridge, other] do
        assert ErlBridge.put_dataset!(bridge, rows) == %{first | sent_bytes: 0}
        refute_received {:chunk, _numbers, %{bridge: ^bridge}}
      end

      assert held(other, first)["sum"] == sum(rows)
    end

    test "takes a file of rows", %{tmp_dir: tmp_dir} do
      path = Path.join(tmp_dir, "rows.jsonl")
      File.write!(path, for(n <- 1..3_000, do: ~s({"n": #{n}}\n)))
      bridge = start!(Path.join(tmp_dir, "home"))
      dataset = ErlBridge.put_dataset!(bridge, DataFile.stream!(path))
      assert %{"count" => 3_000, "sum" => 4_501_500} = held(bridge, dataset)

      File.write!(path, "{]\n", [:append])
      assert {:error, %Error{} = error} = ErlBridge.put_dataset(bridge, DataFile.stream!(path))
      assert error.message =~ "rows.jsonl, line 3001"
      assert open_transfers(bridge) == 0
    end

    test "health checks and other transfers do not wait for a chunk that is being written", %{
      tmp_dir: tmp_dir
    } do
      bridge = start!(tmp_dir)
      held = hold_up(bridge, tmp_dir)
      assert ErlBridge.health_check(bridge) == {:ok, :healthy}
      assert {:ok, %Dataset{rows: 100}} = ErlBridge.put_dataset(bridge, rows(100), small())
      assert ErlBridge.health_check(bridge) == {:ok, :healthy}
      let_go(held)
    end

    test "leaves Python free for others, also for a second transfer", %{tmp_dir: tmp_dir} do
      bridge = start!(tmp_dir)
      rows = rows(2_000)
      first = put_paused(bridge, rows, 1_000)
      assert ErlBridge.health_check(bridge) == {:ok, :healthy}
      assert open_transfers(bridge) == 1
      assert {:ok, second} = ErlBridge.put_dataset(bridge, rows)
      assert {:ok, %Dataset{dataset_id: id}} = go_on(first)
      assert id == second.dataset_id
    end
  end

  describe "faults" do
    test "a Python that is killed in the middle: the next one goes on, with every compression", %{
      tmp_dir: tmp_dir
    } do
      bridge = start!(tmp_dir)

      for kind <- kinds(bridge) do
        rows = rows(2_000)
        task = put_paused(bridge, rows, 1_500, compression: kind)
        os_pid = Live.os_pid(bridge)
        OsProcess.signal(os_pid, "KILL")
        assert {:ok, dataset} = go_on(task)
        assert dataset.dataset_id == Batches.digest(rows, 1_000)
        assert Live.os_pid(bridge) != os_pid
        # What was acknowledged was not sent again.
        assert dataset.sent_bytes < 1.2 * dataset.bytes
        assert held(bridge, dataset)["sum"] == sum(rows)
      end
    end

    test "a worker that is killed takes the transfer with it: a list begins again", %{
      tmp_dir: tmp_dir
    } do
      bridge = start!(tmp_dir)
      rows = rows(20_000)
      test = self()
      killed = :counters.new(1, [])

      kill = fn _event, _numbers, %{bridge: about, transfer: _id}, _ ->
        if about == bridge and :counters.get(killed, 1) == 0 do
          :counters.add(killed, 1, 1)

          [{worker, _load}] =
            bridge |> ErlBridge.Route.lookup() |> elem(1) |> Map.get(:workers) |> Tuple.to_list()

          Process.exit(worker, :kill)
          send(test, :killed)
        end
      end

      :ok = Telemetry.attach({__MODULE__, :kill}, [:erl_bridge, :transfer, :chunk], kill, nil)
      on_exit(fn -> Telemetry.detach({__MODULE__, :kill}) end)
      assert {:ok, dataset} = ErlBridge.put_dataset(bridge, rows, small())
      assert_received :killed
      assert dataset.dataset_id == Batches.digest(rows, 1_000)
      assert open_transfers(bridge) == 0
    end

    test "a rolling restart in the middle changes nothing", %{tmp_dir: tmp_dir} do
      bridge = start!(tmp_dir)
      rows = rows(2_000)
      task = put_paused(bridge, rows, 1_500)
      assert ErlBridge.rolling_restart(bridge) == :ok
      assert {:ok, dataset} = go_on(task)
      assert dataset.dataset_id == Batches.digest(rows, 1_000)
    end

    test "a sender that is killed leaves no transfer and no file", %{tmp_dir: tmp_dir} do
      bridge = start!(tmp_dir)
      rows = pausing(rows(2_000), 1_500)
      pid = spawn(fn -> ErlBridge.put_dataset(bridge, rows, small()) end)
      assert_receive {:paused, ^pid}
      assert open_transfers(bridge) == 1

      Process.exit(pid, :kill)
      assert eventually(fn -> nothing_left?(bridge, tmp_dir) end)
    end

    test "rows that raise leave no transfer and no file", %{tmp_dir: tmp_dir} do
      bridge = start!(tmp_dir)

      rows =
        rows(2_000)
        |> Stream.with_index()
        |> Stream.map(fn {row, n} ->
          n < 1_500 || raise("no")
          row
        end)

      assert_raise RuntimeError, "no", fn -> ErlBridge.put_dataset(bridge, rows, small()) end
      assert eventually(fn -> nothing_left?(bridge, tmp_dir) end)
    end

    test "a row, or all of them, over a limit", %{tmp_dir: tmp_dir} do
      bridge =
        start!(tmp_dir, args: ["--no-dspy", "--dataset-batch", "100000", "--dataset-rows", "3000"])

      assert {:ok, _dataset} =
               ErlBridge.put_dataset(bridge, [%{text: String.duplicate("x", 90_000)}])

      large = [%{n: 1}, %{text: String.duplicate("x", 200_000)}]
      assert {:error, error} = ErlBridge.put_dataset(bridge, large, small())
      assert %Error{type: :transfer_error, strategy: :fatal, context: %{limit: 100_000}} = error

      assert {:error, error} = ErlBridge.put_dataset(bridge, Stream.cycle(rows(10)), small())
      assert %Error{type: :transfer_error, strategy: :fatal, context: %{limit: 3_000}} = error
      assert open_transfers(bridge) == 0
    end

    test "a store that is full", %{tmp_dir: tmp_dir} do
      bridge = start!(tmp_dir, args: ["--no-dspy", "--dataset-store", "50000"])

      assert {:error, %Error{type: :resource_exhausted}} =
               ErlBridge.put_dataset(bridge, rows(2_000), small())

      assert {:ok, %Dataset{}} = ErlBridge.put_dataset(bridge, rows(100), small())
    end

    @tag skip: @no_disk
    test "a disk that is full", %{tmp_dir: tmp_dir} do
      {"", 0} = SmallDisk.mount(tmp_dir)
      on_exit(fn -> SmallDisk.unmount(tmp_dir) end)
      bridge = start!(tmp_dir)

      for options <- [[], small()] do
        assert {:error, error} = ErlBridge.put_dataset(bridge, rows(60_000), options)
        assert %Error{type: :resource_exhausted, strategy: :fatal, context: context} = error
        assert context.dropped and error.message =~ "No space left on device"
        assert nothing_left?(bridge, tmp_dir)
        assert {:ok, %{datasets: 0}} = ErlBridge.dataset_store(bridge)
      end

      rows = rows(1_000)
      dataset = ErlBridge.put_dataset!(bridge, rows)
      assert held(bridge, dataset)["sum"] == sum(rows)
    end

    test "more transfers than are allowed wait for their turn", %{tmp_dir: tmp_dir} do
      bridge = start!(tmp_dir, args: ["--no-dspy", "--max-transfers", "1"])
      task = put_paused(bridge, rows(2_000), 1_000)
      assert {:error, error} = ErlBridge.put_dataset(bridge, rows(10), max_retries: 0)
      assert %Error{type: :overloaded, context: %{limit: 1}} = error

      waiting =
        Task.async(fn ->
          ErlBridge.put_dataset(bridge, rows(10), max_retries: 100, max_retry_after: 20)
        end)

      assert {:ok, %Dataset{}} = go_on(task)
      assert {:ok, %Dataset{rows: 10}} = Task.await(waiting, :infinity)
    end

    test "a digest that is not that of the rows", %{tmp_dir: tmp_dir} do
      bridge = start!(tmp_dir)
      batch = :erlang.term_to_binary(rows(1), [:deterministic, minor_version: 2])
      wrong = Batches.digest(rows(1), 1_000)
      ErlBridge.call!(bridge, :dataset_begin, %{transfer_id: "t", dataset_id: wrong})

      chunk = %{
        transfer_id: "t",
        chunk_index: 0,
        data: <<byte_size(batch)::32, batch::binary>>,
        is_final: true
      }

      assert {:error, %Error{type: :transfer_error}} = ErlBridge.call(bridge, :data_chunk, chunk)
      assert {:error, %Error{}} = ErlBridge.get_dataset(bridge, wrong)
    end

    test "a dataset that is not there", %{tmp_dir: tmp_dir} do
      bridge = start!(tmp_dir)
      id = Batches.digest(rows(1), 1_000)
      assert {:error, %Error{type: :invalid_request} = error} = ErlBridge.get_dataset(bridge, id)
      assert error.message =~ id

      assert {:error, %Error{context: %{dataset_id: ^id}}} =
               ErlBridge.call(bridge, :rows, %{"rows" => %{dataset: id}})
    end
  end

  describe "DSPy" do
    @signature "question -> answer"
    @lm [lm: "local/nearest-demo"]

    test "optimizes, evaluates and predicts with datasets, and the cache knows them by their ids",
         %{tmp_dir: tmp_dir} do
      bridge = start!(tmp_dir, args: [])
      rows = for n <- 1..40, do: %{question: "what is #{n}?", answer: "number #{rem(n, 4)}"}
      options = @lm ++ [optimizer: :labeled_few_shot]
      inline = ErlBridge.optimize!(bridge, @signature, rows, options)

      for data <- [Stream.map(rows, & &1), rows, ErlBridge.put_dataset!(bridge, rows)] do
        result = ErlBridge.optimize!(bridge, @signature, data, [dataset_above: 1] ++ options)
        assert result.program == inline.program
      end

      # The first of them computed; and what is in the request itself is another request.
      assert {:ok, %{misses: 2, hits: 2}} = ErlBridge.cache_stats(bridge)

      score = &ErlBridge.evaluate!(bridge, inline.program, &1, @lm).score
      assert score.(Stream.map(rows, & &1)) == score.(rows)

      inputs = for row <- rows, do: Map.take(row, [:question])
      dataset = ErlBridge.put_dataset!(bridge, inputs)
      assert {:ok, outputs} = ErlBridge.predict(bridge, inline.program, dataset, @lm)
      assert {:ok, ^outputs} = ErlBridge.predict(bridge, inline.program, inputs, @lm)
    end
  end

  # The compressions that both sides have.
  defp kinds(bridge) do
    {:ok, %{compression: known}} = ErlBridge.dataset_store(bridge)
    zstd = if Code.ensure_loaded?(:zstd), do: [:zstd], else: []
    for kind <- [:none, :zlib] ++ zstd, kind in known, do: kind
  end

  # Asks until it is so: each question is answered by Python, so nobody sleeps. The test's own timeout is the end of it.
  defp eventually(fun), do: fun.() or eventually(fun)
end
