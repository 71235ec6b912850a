defmodule ErlBridge.DatasetTest do
  @moduledoc "The sender, against a bridge without Python that answers as the test will have it."
  use ExUnit.Case, async: true
  doctest ErlBridge.Dataset
  doctest ErlBridge.Dataset.Batches
  doctest ErlBridge.Dataset.Compressor
  doctest ErlBridge.Dataset.Known

  alias ErlBridge.Dataset.Batches
  alias ErlBridge.{Dataset, Error, Live, Testing}

  # Rows of some 100 bytes, which no other test has.
  defp rows(count, first \\ System.unique_integer([:positive]) * 1_000_000) do
    for n <- first..(first + count - 1)//1, do: %{n: n, text: String.duplicate("x", 70)}
  end

  defp start!(handlers \\ %{}), do: start_supervised!({Testing, handlers})

  # A handler that tells the test of each chunk and waits for its word.
  defp asking(test) do
    fn payload, context ->
      send(test, {:chunk, payload.chunk_index, context.ref, payload})
      :later
    end
  end

  defp answer(bridge, ref, index, more \\ %{}) do
    reply = Map.merge(%{received: index + 1, next: index + 1}, more)
    assert Testing.reply(bridge, ref, {:ok, reply})
  end

  defp types(bridge), do: for(%{request_type: type} <- Testing.requests(bridge), do: type)

  defp refused(type, strategy, context),
    do: %Error{type: type, message: "no", strategy: strategy, context: context}

  describe "batches" do
    test "have about the size that is asked for, and nothing is lost" do
      rows = rows(1_000)

      for {rows, most} <- [{rows, 2_000}, {Stream.map(rows, & &1), 1_200}] do
        batches = Batches.reduce(rows, 1_000, [], &[{&1, &2} | &3]) |> Enum.reverse()
        decoded = for {batch, _count} <- batches, do: :erlang.binary_to_term(batch)
        assert Enum.concat(decoded) == Enum.to_list(rows)
        assert Enum.map(decoded, &length/1) == Enum.map(batches, &elem(&1, 1))
        for {batch, _count} <- batches, do: assert(byte_size(batch) <= most)
      end
    end

    test "a row larger than a batch ends one, and alone in a list is one" do
      large = %{text: String.duplicate("x", 5_000)}
      rows = [%{n: 1}, large, %{n: 2}]

      batches =
        &Batches.reduce(&1, 1_000, [], fn batch, _, seen ->
          seen ++ [:erlang.binary_to_term(batch)]
        end)

      assert batches.(Stream.map(rows, & &1)) == [[%{n: 1}, large], [%{n: 2}]]
      assert batches.(rows) == [[%{n: 1}], [large], [%{n: 2}]]
    end

    test "the id is that of the rows one after the other, as the protocol says" do
      rows = rows(100)

      bytes =
        for row <- rows do
          <<131, row::binary>> = :erlang.term_to_binary(row, [:deterministic, minor_version: 2])

          row
        end

      id = Base.encode16(:crypto.hash(:sha256, bytes), case: :lower)
      assert for(size <- [1, 333, 1_000_000], do: Batches.digest(rows, size)) == [id, id, id]
      assert Batches.digest([], 1) == Base.encode16(:crypto.hash(:sha256, ""), case: :lower)
    end
  end

  describe "put_dataset" do
    test "gives the same dataset for a list, a stream, a set, and however it is sent" do
      bridge = start!()
      rows = rows(2_000)
      {:ok, %Dataset{rows: 2_000} = dataset} = ErlBridge.put_dataset(bridge, rows)
      assert dataset.dataset_id == Batches.digest(rows, 1)
      assert dataset.sent_bytes > dataset.bytes

      lazy = Stream.map(rows, & &1)

      for {rows, options} <- [
            {lazy, []},
            {lazy, chunk_bytes: 1_024},
            {lazy, compression: :zlib},
            {lazy, compression: :zlib, level: 9, chunk_bytes: 1_024},
            {rows, digest: :last, window: 1}
          ] do
        assert {:ok, again} = ErlBridge.put_dataset(bridge, rows, options)
        assert Map.drop(again, [:sent_bytes]) == Map.drop(dataset, [:sent_bytes])
        assert again.sent_bytes > 0
      end

      assert {:ok, %Dataset{rows: 3}} = ErlBridge.put_dataset(bridge, MapSet.new(rows(3)))
      assert {:ok, %Dataset{rows: 0, bytes: 0}} = ErlBridge.put_dataset(bridge, [])
      assert {:ok, %Dataset{rows: 0}} = ErlBridge.put_dataset(bridge, Stream.take([], 1))
      assert ErlBridge.get_dataset(bridge, dataset) == {:ok, %{dataset | sent_bytes: 0}}
      assert Live.mailbox() == []
    end

    test "sends nothing the second time" do
      bridge = start!()
      rows = rows(2_000)
      first = ErlBridge.put_dataset!(bridge, rows)
      before = length(types(bridge))
      second = ErlBridge.put_dataset!(bridge, rows)
      assert Enum.drop(types(bridge), before) == [:dataset_begin]
      assert second == %{first | sent_bytes: 0}

      lazy = Stream.map(rows, & &1)
      assert %{sent_bytes: 0} = ErlBridge.put_dataset!(bridge, lazy, digest: :first)
      assert %{sent_bytes: sent} = ErlBridge.put_dataset!(bridge, lazy)
      assert sent > 0
    end

    test "sends a list that only looks like one that was sent" do
      bridge = start!()
      rows = rows(2_000)
      ErlBridge.put_dataset!(bridge, rows)
      like_it = List.replace_at(rows, -1, %{List.last(rows) | n: 0})
      assert Dataset.Known.member?(like_it)
      assert %{sent_bytes: sent} = dataset = ErlBridge.put_dataset!(bridge, like_it)
      assert sent > dataset.bytes
    end

    # At each row that is made and each chunk that comes: how many could there be by now? The row that
    # is made, four batches ahead, one in the sender's hand, and those that are under way.
    test "has so many chunks under way and no more, and is but a few batches ahead" do
      test = self()
      bridge = start!(%{data_chunk: asking(test)})
      answered = :counters.new(1, [])

      rows =
        Stream.map(1..100, fn n ->
          assert n <= :counters.get(answered, 1) + 3 + 1 + 4 + 1
          %{n: n, text: String.duplicate("x", 2_000)}
        end)

      task = Task.async(fn -> ErlBridge.put_dataset(bridge, rows, small()) end)

      for index <- 0..99 do
        ref = receive_chunk(index)
        :counters.add(answered, 1, 1)
        assert for({:chunk, later, _, _} <- Live.mailbox(), later > index + 2, do: later) == []
        answer(bridge, ref, index)
      end

      answer(bridge, receive_chunk(100), 100, %{dataset_id: "abc", rows: 100, bytes: 1})
      assert {:ok, %Dataset{rows: 100}} = Task.await(task, :infinity)
    end

    test "tells of its progress, in the calling process" do
      test = self()
      rows = rows(2_000)
      bridge = start!()

      on_progress = fn event ->
        assert self() == test
        send(test, {:progress, event})
      end

      {:ok, dataset} = ErlBridge.put_dataset(bridge, rows, on_progress: on_progress)
      assert_received {:progress, %{kind: :progress, phase: :transfer, done: 2_000} = last}
      assert %{total: 2_000, sent_bytes: sent, elapsed_ms: _} = last
      assert sent == dataset.sent_bytes
    end

    test "goes on where Python was, and sends nothing twice" do
      test = self()
      bridge = start!(%{data_chunk: asking(test), dataset_status: &status(test, &1, &2)})
      task = Task.async(fn -> ErlBridge.put_dataset(bridge, rows(40), small()) end)
      refs = for index <- 0..2, do: receive_chunk(index)

      # The first was written, and so was the third; of neither the sender hears.
      crash = refused(:process_crashed, :restart_process, %{})
      for ref <- refs, do: assert(Testing.reply(bridge, ref, {:error, crash}))
      assert_receive {:status, ref}
      status = %{received: [{0, 0}, {2, 2}], missing: [{1, 1}], next: 1, dataset_id: nil}
      assert Testing.reply(bridge, ref, {:ok, status})

      answer(bridge, receive_chunk(1), 1)
      answer(bridge, receive_chunk(3), 3)
      id = Batches.digest(rows(40, 0), 1)

      assert_receive {:chunk, 4, ref, %{is_final: true, data: "", dataset_id: _}}
      answer(bridge, ref, 4, %{dataset_id: id, rows: 40, bytes: 4_000})
      assert {:ok, %Dataset{dataset_id: ^id}} = Task.await(task, :infinity)
    end

    test "takes a dataset that was completed and not answered" do
      test = self()
      bridge = start!(%{data_chunk: asking(test), dataset_status: &status(test, &1, &2)})
      task = Task.async(fn -> ErlBridge.put_dataset(bridge, [], small()) end)
      ref = receive_chunk(0)
      Testing.reply(bridge, ref, {:error, refused(:process_crashed, :restart_process, %{})})
      assert_receive {:status, ref}
      Testing.reply(bridge, ref, {:ok, %{dataset_id: "abc", rows: 0, bytes: 0}})
      assert {:ok, %Dataset{dataset_id: "abc"}} = Task.await(task, :infinity)
    end

    test "does not go on where Python has lost what it had" do
      test = self()
      bridge = start!(%{data_chunk: asking(test), dataset_status: &status(test, &1, &2)})
      rows = Stream.map(rows(40), & &1)
      task = Task.async(fn -> ErlBridge.put_dataset(bridge, rows, small()) end)
      [first, second, third] = for index <- 0..2, do: receive_chunk(index)
      answer(bridge, first, 0)
      fourth = receive_chunk(3)
      crash = refused(:process_crashed, :restart_process, %{})
      for ref <- [second, third, fourth], do: Testing.reply(bridge, ref, {:error, crash})
      assert_receive {:status, ref}
      nothing = %{received: [], missing: [], next: 0, dataset_id: nil}
      Testing.reply(bridge, ref, {:ok, nothing})
      assert {:error, %Error{type: :transfer_error} = error} = Task.await(task, :infinity)
      assert error.message =~ "chunk 0 of the transfer had come, and is not there any more"
      assert :dataset_drop in types(bridge)
    end

    test "gives up after so many attempts" do
      bridge =
        start!(%{
          data_chunk: fn _, _ -> {:error, refused(:overloaded, :retry, %{})} end
        })

      options = [max_retries: 2, backoff: [min: 1, max: 1]]
      assert {:error, %Error{type: :overloaded}} = ErlBridge.put_dataset(bridge, [], options)
      assert Enum.count(types(bridge), &(&1 == :data_chunk)) == 3
      assert Enum.count(types(bridge), &(&1 == :dataset_status)) == 2
      assert :dataset_drop in types(bridge)
    end

    test "waits for its turn where too many transfers are open" do
      tries = :counters.new(1, [])

      bridge =
        start!(%{
          dataset_begin: fn _payload, _context ->
            :counters.add(tries, 1, 1)
            many = refused(:overloaded, :retry, %{limit: 16})
            if :counters.get(tries, 1) < 3, do: {:error, many}, else: {:ok, %{dataset_id: nil}}
          end,
          data_chunk: fn _payload, _context ->
            {:ok, %{received: 1, next: 1, dataset_id: "abc", rows: 0, bytes: 0}}
          end
        })

      options = [backoff: [min: 1, max: 1]]
      assert {:ok, %Dataset{}} = ErlBridge.put_dataset(bridge, [], options)
      assert :counters.get(tries, 1) == 3
    end

    test "begins again with a list whose transfer was dropped, and not with a stream" do
      tries = :counters.new(1, [])
      gone = refused(:transfer_error, :retry, %{dropped: true})

      bridge =
        start!(%{
          data_chunk: fn _payload, _context ->
            :counters.add(tries, 1, 1)
            done = {:ok, %{received: 1, next: 1, dataset_id: "abc", rows: 0, bytes: 0}}
            if :counters.get(tries, 1) == 2, do: done, else: {:error, gone}
          end
        })

      assert {:ok, %Dataset{dataset_id: "abc"}} = ErlBridge.put_dataset(bridge, [])

      transfers =
        for %{request_type: :dataset_begin, payload: p} <- Testing.requests(bridge), do: p

      assert [%{transfer_id: one}, %{transfer_id: other}] = transfers
      assert one != other

      assert {:error, ^gone} = ErlBridge.put_dataset(bridge, Stream.take([], 1))
      refute :dataset_drop in types(bridge)
    end

    test "an error that is final is the result at once, and ends the stream" do
      test = self()
      fatal = refused(:transfer_error, :fatal, %{limit: 10, dropped: true})
      bridge = start!(%{data_chunk: fn _payload, _context -> {:error, fatal} end})

      endless =
        Stream.resource(
          fn -> 0 end,
          fn n -> {[%{n: n, text: String.duplicate("x", 500)}], n + 1} end,
          fn _n -> send(test, :closed) end
        )

      assert ErlBridge.put_dataset(bridge, endless, small()) == {:error, fatal}
      assert_received :closed
      assert Live.mailbox() == []
    end

    test "a row that is no map is an error that names it, and nothing is left" do
      bridge = start!()

      for rows <- [[%{a: 1}, "x"], Stream.take([%{a: 1}, "x"], 2)] do
        assert {:error, %Error{type: :invalid_request} = error} =
                 ErlBridge.put_dataset(bridge, rows)

        assert error.message == ~s(rows[1]: expected a map, got "x")
        assert %{path: "rows[1]", row: 1} = error.context
      end

      assert {:ok, %{transfers: 0, datasets: 0}} = ErlBridge.dataset_store(bridge)
      assert Live.mailbox() == []
    end

    test "what the rows raise is raised, but an error of this library is the result" do
      bridge = start!()
      raising = Stream.map(rows(1_000), &if(&1.n < 0, do: &1, else: raise("no more")))

      assert_raise RuntimeError, "no more", fn -> ErlBridge.put_dataset(bridge, raising) end
      assert catch_throw(ErlBridge.put_dataset(bridge, Stream.map([1], &throw/1))) == 1

      error = refused(:invalid_request, :fatal, %{})
      failing = Stream.map([1], fn _ -> raise error end)
      assert ErlBridge.put_dataset(bridge, failing) == {:error, error}
      assert {:ok, %{transfers: 0, datasets: 0}} = ErlBridge.dataset_store(bridge)
      assert Live.mailbox() == []
    end

    test "of a process that is killed leaves nothing" do
      test = self()

      bridge =
        start!(%{
          dataset_drop: fn payload, _context ->
            send(test, {:dropped, payload.transfer_id})
            {:ok, %{dropped: true}}
          end
        })

      rows =
        Stream.map(1..10_000, fn n ->
          if n == 5_000 do
            send(test, {:under_way, self()})
            Process.sleep(:infinity)
          end

          %{n: n}
        end)

      spawn(fn -> ErlBridge.put_dataset(bridge, rows, small()) end)
      assert_receive {:under_way, owner}
      Process.exit(owner, :kill)
      assert_receive {:dropped, id}

      assert [%{payload: %{transfer_id: ^id}}] =
               Enum.filter(Testing.requests(bridge), &(&1.request_type == :dataset_begin))
    end

    test "tells Python that there will be more, when the rows take their time" do
      test = self()
      bridge = start!(%{dataset_status: &status(test, &1, &2)})

      slow =
        Stream.map([%{n: 1}], fn row ->
          receive(do: (:go_on -> row))
        end)

      task = Task.async(fn -> ErlBridge.put_dataset(bridge, slow, keep_alive: 1) end)
      assert_receive {:status, ref}
      assert Testing.reply(bridge, ref, {:ok, %{dataset_id: nil}})
      assert_receive {:status, ref}
      send(task.pid, :go_on)
      assert Testing.reply(bridge, ref, {:ok, %{dataset_id: nil}})
      assert {:ok, %Dataset{rows: 1}} = answer_all(bridge, task)
    end

    test "takes no longer than it may" do
      bridge = start!(%{data_chunk: fn _payload, _context -> :later end})

      assert {:error, %Error{type: :timeout_error}} =
               ErlBridge.put_dataset(bridge, rows(100), timeout: 20)
    end

    test "says what is wrong before anything is sent" do
      bridge = start!()

      assert_raise ArgumentError, ~r/expected :window to be an integer from 1 to 256/, fn ->
        ErlBridge.put_dataset(bridge, [], window: 0)
      end

      assert_raise Error, ~r/no bridge is running/, fn ->
        ErlBridge.put_dataset!(:no_such_bridge, [])
      end

      if not Code.ensure_loaded?(:zstd) do
        assert {:error, %Error{type: :invalid_request} = error} =
                 ErlBridge.put_dataset(bridge, [], compression: :zstd)

        assert error.message =~ "needs OTP 28"
      end

      assert {:error, %Error{context: %{dataset_id: "none"}}} =
               ErlBridge.get_dataset(bridge, "none")

      assert Testing.requests(bridge) |> Enum.reject(&(&1.request_type == :dataset_status)) == []
    end
  end

  describe "telemetry" do
    test "tells of a transfer, its chunks and its end" do
      bridge = start!()
      rows = rows(100)

      events =
        for event <- [:start, :chunk, :stop, :exception], do: [:erl_bridge, :transfer, event]

      test = self()
      tell = fn name, numbers, about, _ -> send(test, {List.last(name), numbers, about}) end
      :ok = ErlBridge.Telemetry.attach({__MODULE__, test}, events, tell, nil)
      on_exit(fn -> ErlBridge.Telemetry.detach({__MODULE__, test}) end)

      dataset = ErlBridge.put_dataset!(bridge, rows, small())
      assert_receive {:start, %{monotonic_time: _}, %{bridge: ^bridge, transfer: id}}
      assert_receive {:stop, %{duration: _, bytes: bytes, rows: 100}, %{transfer: ^id} = about}
      assert %{result: :ok, error: nil, dataset_id: dataset_id} = about
      assert {dataset_id, bytes} == {dataset.dataset_id, dataset.sent_bytes}
      chunks = received_chunks(id)
      assert chunks |> Enum.map(& &1.bytes) |> Enum.sum() == bytes
      assert chunks |> Enum.map(& &1.rows) |> Enum.sum() == 100

      ErlBridge.put_dataset!(bridge, rows)
      assert_receive {:stop, %{bytes: 0, rows: 100}, %{bridge: ^bridge, transfer: again}}
      assert received_chunks(again) == []

      assert {:error, error} = ErlBridge.put_dataset(bridge, [1])
      assert_receive {:stop, %{bytes: 0}, %{bridge: ^bridge, result: :error, error: ^error}}

      assert_raise RuntimeError, fn ->
        ErlBridge.put_dataset(bridge, Stream.map([1], fn _ -> raise "no" end))
      end

      assert_receive {:exception, %{duration: _}, %{bridge: ^bridge, kind: :error}}
    end
  end

  describe "rows of a request" do
    setup do
      echo = fn payload, _context -> {:ok, payload} end
      %{bridge: start!(%{optimize_signature: echo, train_model: echo, evaluate_pipeline: echo})}
    end

    test "go with it up to a size, and as a dataset above it", %{bridge: bridge} do
      rows = rows(100)
      bytes = rows |> Enum.map(&:erlang.external_size/1) |> Enum.sum()
      optimize = &ErlBridge.optimize(bridge, "text -> n", rows, dataset_above: &1)

      assert {:ok, %{training_data: ^rows}} = optimize.(bytes)
      assert types(bridge) == [:optimize_signature]

      assert {:ok, %{training_data: ^rows}} = optimize.(bytes - 1)
      assert :dataset_begin in types(bridge)
      assert %{payload: %{training_data: %{dataset: id}}} = List.last(Testing.requests(bridge))
      assert id == Batches.digest(rows, 1)

      before = length(types(bridge))
      assert {:ok, %{training_data: ^rows}} = optimize.(:infinity)
      assert Enum.drop(types(bridge), before) == [:optimize_signature]
    end

    test "may be lazy, or a dataset, or its id", %{bridge: bridge} do
      rows = rows(10)
      dataset = ErlBridge.put_dataset!(bridge, rows)
      ref = Dataset.ref(dataset)

      for data <- [Stream.map(rows, & &1), dataset, ref, rows] do
        options = [validation_data: data]

        assert {:ok, %{training_data: ^rows, validation_data: ^rows}} =
                 ErlBridge.optimize(bridge, "text -> n", data, options)

        assert {:ok, %{training_data: ^rows}} = ErlBridge.train(bridge, "text -> n", data)
        assert {:ok, %{data: ^rows}} = ErlBridge.evaluate(bridge, "text -> n", data)
      end
    end

    test "tell of their transfer as the request does of its work", %{bridge: bridge} do
      test = self()
      rows = Stream.map(rows(10), & &1)
      on_progress = &send(test, {:progress, &1})
      assert {:ok, _} = ErlBridge.evaluate(bridge, "text -> n", rows, on_progress: on_progress)
      assert_received {:progress, %{phase: :transfer, done: 10}}
    end

    test "that cannot be sent are the fallback's affair, like any failure", %{bridge: bridge} do
      rows = Stream.map([1], fn _ -> raise refused(:overloaded, :retry, %{}) end)

      for ask <- [&ErlBridge.optimize/4, &ErlBridge.evaluate/4] do
        assert {:error, %Error{type: :overloaded}} = ask.(bridge, "text -> n", rows, [])

        assert {:ok, :overloaded} =
                 ask.(bridge, "text -> n", rows, fallback: fn error -> error.type end)
      end
    end
  end

  defp small, do: [chunk_bytes: 1_024, window: 3, backoff: [min: 1, max: 1]]

  defp status(test, _payload, context) do
    send(test, {:status, context.ref})
    :later
  end

  defp receive_chunk(index) do
    assert_receive {:chunk, ^index, ref, _payload}
    ref
  end

  # All questions that still come before the result of the task, which is given.
  defp answer_all(bridge, %Task{ref: task} = asking) do
    receive do
      {:status, ref} ->
        Testing.reply(bridge, ref, {:ok, %{dataset_id: nil}})
        answer_all(bridge, asking)

      {^task, result} ->
        Process.demonitor(task, [:flush])
        result
    end
  end

  defp received_chunks(id) do
    receive do
      {:chunk, numbers, %{transfer: ^id}} -> [numbers | received_chunks(id)]
    after
      0 -> []
    end
  end
end
