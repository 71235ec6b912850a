defmodule ErlBridge.CacheTest do
  use ExUnit.Case, async: true
  doctest ErlBridge.Cache
  doctest ErlBridge.Cache.Meter

  import ExUnit.CaptureLog

  alias ErlBridge.{Cache, Error}

  @key "key"

  describe "one computation" do
    test "for a hundred callers at a time" do
      cache = start!()
      test = self()

      tasks =
        for _n <- 1..100, do: Task.async(fn -> Cache.fetch(cache, @key, computation(test)) end)

      assert_receive {:computing, leader}
      wait_for_waiters(cache, 99)
      send(leader, {:compute, {:ok, :result}})

      assert Enum.uniq(Task.await_many(tasks, :infinity)) == [{:ok, :result}]
      refute_received {:computing, _other}
      assert {:ok, %{misses: 1, waits: 99, hits: 0, puts: 1}} = Cache.stats(cache)
    end

    test "for each key, side by side" do
      cache = start!()
      test = self()
      keys = for n <- 1..5, do: "#{n}"

      tasks =
        for key <- keys, do: Task.async(fn -> Cache.fetch(cache, key, computation(test)) end)

      leaders = for _key <- keys, do: receive_leader()
      Enum.each(leaders, &send(&1, {:compute, {:ok, &1}}))

      assert Enum.sort(Task.await_many(tasks, :infinity)) ==
               Enum.sort(Enum.map(leaders, &{:ok, &1}))
    end

    test "is taken over when the computing caller is killed" do
      cache = start!()
      {leader, _task} = lead!(cache)
      waiter = wait!(cache)
      Process.exit(leader, :kill)

      heir = receive_leader()
      assert heir == waiter.pid
      send(heir, {:compute, {:ok, :second}})
      assert Task.await(waiter, :infinity) == {:ok, :second}
      assert Cache.get(cache, @key) == {:ok, :second}
    end

    test "is taken over when it raises; the error is raised where it ran" do
      cache = start!()
      {leader, monitor} = lead!(cache)
      waiter = wait!(cache)

      send(leader, {:compute, fn -> exit(:failed) end})
      assert_receive {:DOWN, ^monitor, :process, ^leader, :failed}
      send(receive_leader(), {:compute, {:ok, :second}})
      assert Task.await(waiter, :infinity) == {:ok, :second}
    end

    test "that fails is an error for all, which is not kept" do
      cache = start!()
      error = {:error, %Error{type: :lm_error, message: "no"}}
      {leader, _monitor} = lead!(cache)
      waiters = for _n <- 1..3, do: start_waiter(cache)
      wait_for_waiters(cache, 3)
      send(leader, {:compute, error})

      assert Task.await_many(waiters, :infinity) == [error, error, error]
      assert Cache.get(cache, @key) == :miss
    end

    test "that was cancelled or ran out of its own time is tried again by the next" do
      for type <- [:cancelled, :timeout_error] do
        cache = start!()
        {leader, _monitor} = lead!(cache)
        waiter = wait!(cache)
        send(leader, {:compute, {:error, %Error{type: type, message: "mine"}}})
        send(receive_leader(), {:compute, {:ok, type}})
        assert Task.await(waiter, :infinity) == {:ok, type}
      end
    end

    test "is waited for no longer than the caller's timeout, and goes on" do
      cache = start!()
      {leader, monitor} = lead!(cache)

      assert {:error, %Error{type: :timeout_error, message: "no answer within 1 ms"}} =
               Cache.fetch(cache, @key, fn -> flunk("computed twice") end, timeout: 1)

      send(leader, {:compute, {:ok, :late}})
      assert_receive {:DOWN, ^monitor, :process, ^leader, :normal}
      assert Cache.get(cache, @key) == {:ok, :late}
    end

    test "goes past a waiter that died" do
      cache = start!()
      {leader, _monitor} = lead!(cache)
      dead = wait!(cache)
      waiter = start_waiter(cache)
      wait_for_waiters(cache, 2)
      Process.unlink(dead.pid)
      Process.exit(dead.pid, :kill)
      wait_for_waiters(cache, 1)
      Process.exit(leader, :kill)

      assert receive_leader() == waiter.pid
      send(waiter.pid, {:compute, {:ok, :result}})
      assert Task.await(waiter, :infinity) == {:ok, :result}
      assert flights(cache) == ErlBridge.Cache.Flights.new()
    end

    test "is told how much time the caller has left" do
      cache = start!()
      echo = fn timeout -> {:ok, timeout} end
      assert {:ok, left} = Cache.fetch(cache, "bounded", echo, timeout: 60_000)
      assert left in 1..60_000
      assert Cache.fetch(cache, "unbounded", echo) == {:ok, :infinity}
    end

    test "that asks for its own key is refused, not stuck" do
      cache = start!()
      again = fn -> Cache.fetch(cache, @key, fn -> {:ok, :inner} end) end

      assert_raise ArgumentError, ~r/asks for that key itself/, fn ->
        Cache.fetch(cache, @key, again)
      end

      assert Cache.fetch(cache, @key, fn -> {:ok, :after} end) == {:ok, :after}
    end

    test "that gives something else is refused" do
      cache = start!()
      text = ~r/expected \{:ok, result\} or \{:error, error\} .* got: :what/
      assert_raise ArgumentError, text, fn -> Cache.fetch(cache, @key, fn -> :what end) end
    end

    test "of a key deleted meanwhile goes to its callers, and is not kept" do
      for forget <- [&Cache.delete(&1, @key), &Cache.clear/1] do
        cache = start!()
        {leader, monitor} = lead!(cache)
        waiter = wait!(cache)
        :ok = forget.(cache)
        assert Cache.fetch(cache, @key, fn -> {:ok, :new} end) == {:ok, :new}
        send(leader, {:compute, {:ok, :old}})
        assert_receive {:DOWN, ^monitor, :process, ^leader, :normal}
        assert Task.await(waiter, :infinity) == {:ok, :old}
        assert Cache.get(cache, @key) == {:ok, :new}
      end
    end

    test "keeps its result when the cache dies; those who wait are told" do
      cache = start!(restart: :temporary)
      {leader, monitor} = lead!(cache)
      waiter = wait!(cache)
      Process.exit(cache, :kill)
      assert {:error, %Error{type: :not_running}} = Task.await(waiter, :infinity)
      send(leader, {:compute, {:ok, :result}})
      assert_receive {:DOWN, ^monitor, :process, ^leader, :normal}
    end
  end

  describe "a refresh" do
    test "replaces what is there, which others get until then" do
      cache = start!()
      :ok = Cache.put(cache, @key, :old)
      {leader, monitor} = lead!(cache, refresh: true)
      assert Cache.get(cache, @key) == {:ok, :old}
      send(leader, {:compute, {:ok, :new}})
      assert_receive {:DOWN, ^monitor, :process, ^leader, :normal}
      assert Cache.get(cache, @key) == {:ok, :new}
    end

    test "that fails leaves what is there" do
      cache = start!()
      :ok = Cache.put(cache, @key, :old)
      assert Cache.fetch(cache, @key, fn -> {:error, :no} end, refresh: true) == {:error, :no}
      assert Cache.get(cache, @key) == {:ok, :old}
    end
  end

  test "a hit sends nothing to the cache's process" do
    cache = start!()
    :ok = Cache.put(cache, @key, :result)
    :sys.suspend(cache)
    assert Cache.fetch(cache, @key, fn -> flunk("a miss") end) == {:ok, :result}
    assert Cache.get(cache, @key) == {:ok, :result}
    assert {:message_queue_len, 0} = Process.info(cache, :message_queue_len)
    :sys.resume(cache)
  end

  test "reading counts as a use" do
    cache = start!(max_entries: 2)
    :ok = Cache.put(cache, "a", 1)
    :ok = Cache.put(cache, "b", 2)
    {:ok, 1} = Cache.get(cache, "a")
    :ok = Cache.put(cache, "c", 3)
    assert Enum.map(~w(a b c), &Cache.get(cache, &1)) == [{:ok, 1}, :miss, {:ok, 3}]
    assert Cache.size(cache) == {:ok, 2}
  end

  test "events tell what happens, and an expired result is gone" do
    test = self()
    on_event = fn event, measurements, metadata -> send(test, {event, measurements, metadata}) end
    cache = start!(max_entries: 1, on_event: on_event)
    bytes = byte_size(:erlang.term_to_binary(:result, minor_version: 2))
    metadata = %{cache: cache, key: @key}

    {:ok, :result} = Cache.fetch(cache, @key, fn -> {:ok, :result} end)
    assert_receive {:miss, %{}, ^metadata}
    assert_receive {:put, %{bytes: ^bytes}, ^metadata}
    {:ok, :result} = Cache.get(cache, @key)
    assert_receive {:hit, %{bytes: ^bytes}, ^metadata}
    :ok = Cache.put(cache, "short", :result, ttl: 1)
    assert_receive {:evict, %{bytes: ^bytes}, ^metadata}
    assert_receive {:expire, %{bytes: ^bytes}, %{key: "short"}}
    assert Cache.get(cache, "short") == :miss
    assert {:ok, %{entries: 0, bytes: 0, evictions: 1, expirations: 1}} = Cache.stats(cache)
  end

  test "an :on_event that raises is logged and does no harm" do
    cache = start!(on_event: fn _event, _measurements, _metadata -> raise "no" end)
    log = capture_log(fn -> :ok = Cache.put(cache, @key, 1) end)
    assert log =~ "the :on_event of the cache #{inspect(cache)} failed: ** (RuntimeError) no"
    capture_log(fn -> assert Cache.get(cache, @key) == {:ok, 1} end)
  end

  test "what is no cache is an error, not an exit" do
    bridge = ErlBridge.Live.shared()

    for cache <- [:nowhere, bridge],
        ask <- [&Cache.get(&1, @key), &Cache.put(&1, @key, 1), &Cache.stats/1] do
      assert {:error, %Error{type: :not_running} = error} = ask.(cache)
      assert Exception.message(error) =~ "no cache is running as #{inspect(cache)}"
    end
  end

  test "caches side by side know nothing of each other" do
    [one, two] = [start!(), start!()]
    :ok = Cache.put(one, @key, 1)
    assert Cache.get(two, @key) == :miss
  end

  defp start!(options \\ []) do
    {restart, options} = Keyword.split(options, [:restart])
    start_supervised!({Cache, options}, [id: make_ref()] ++ restart)
  end

  # A computation that says that it runs, and gives what it is told to.
  defp computation(test) do
    fn ->
      send(test, {:computing, self()})

      receive do
        {:compute, fun} when is_function(fun) -> fun.()
        {:compute, outcome} -> outcome
      end
    end
  end

  defp lead!(cache, options \\ []) do
    compute = computation(self())
    {leader, monitor} = spawn_monitor(fn -> Cache.fetch(cache, @key, compute, options) end)
    assert receive_leader() == leader
    {leader, monitor}
  end

  defp wait!(cache) do
    task = start_waiter(cache)
    wait_for_waiters(cache, 1)
    task
  end

  defp start_waiter(cache) do
    test = self()
    Task.async(fn -> Cache.fetch(cache, @key, computation(test)) end)
  end

  defp receive_leader do
    assert_receive {:computing, leader}
    leader
  end

  # A call to the cache's process each time: those it has taken before are seen.
  defp wait_for_waiters(cache, count) do
    if map_size(flights(cache).members) != count + 1, do: wait_for_waiters(cache, count)
  end

  defp flights(cache), do: :sys.get_state(cache).flights
end
