# What the bridge keeps, it keeps apart from what the user has.
home = Path.join(System.tmp_dir!(), "erl_bridge-test-home-#{System.pid()}")
System.put_env("ERL_BRIDGE_HOME", home)
System.at_exit(fn _status -> File.rm_rf!(home) end)

Logger.configure(level: :warning)
# What does not come at all is waited for as long; what comes late on a busy machine is no fault.
ExUnit.start(assert_receive_timeout: 60_000, timeout: 180_000)
ErlBridge.Live.start_shared!()
